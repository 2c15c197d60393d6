//! Command lines of the documents and slips of the pen, as the parser sees them.

use super::*;
use crate::COMMANDS;
use rstest::rstest;

fn parsed(line: &[&str]) -> Result<(&'static Command, Arguments), Failure> {
    let words: Vec<String> = line.iter().map(|word| word.to_string()).collect();
    parse(COMMANDS, &words)
}

#[rstest]
#[case(&["patch", "configs.imageregistry.operator.openshift.io", "cluster", "--type", "merge", "--patch", "{}"], "patch", &["configs.imageregistry.operator.openshift.io", "cluster"], &[("type", "merge"), ("patch", "{}")])]
#[case(&["patch", "config.imageregistry.operator.openshift.io/cluster", "--type=merge", "-p", "{\"a\": 1}"], "patch", &["config.imageregistry.operator.openshift.io/cluster"], &[("type", "merge"), ("patch", "{\"a\": 1}")])]
#[case(&["get", "route", "default-route", "-n", "openshift-image-registry", "--template={{ .spec.host }}"], "get", &["route", "default-route"], &[("namespace", "openshift-image-registry"), ("template", "{{ .spec.host }}")])]
#[case(&["create", "-f", "-"], "create", &[], &[("filename", "-")])]
#[case(&["create", "-n", "openshift-image-registry", "-f", "-"], "create", &[], &[("namespace", "openshift-image-registry"), ("filename", "-")])]
#[case(&["create", "secret", "tls", "public-route-tls", "-n", "ns", "--cert=c", "--key=k"], "create secret tls", &["public-route-tls"], &[("cert", "c"), ("key", "k"), ("namespace", "ns")])]
#[case(&["create", "secret", "generic", "s", "--from-file=KEY1=value1", "--from-literal=KEY2=a=b", "--namespace", "ns"], "create secret generic", &["s"], &[("from-file", "KEY1=value1"), ("from-literal", "KEY2=a=b"), ("namespace", "ns")])]
#[case(&["create", "configmap", "registry-config", "--from-file=r.example.com..5000=ca.crt", "-n", "openshift-config"], "create configmap", &["registry-config"], &[("from-file", "r.example.com..5000=ca.crt")])]
#[case(&["adm", "policy", "add-cluster-role-to-user", "prometheus-scraper", "u"], "adm policy add-cluster-role-to-user", &["prometheus-scraper", "u"], &[])]
#[case(&["adm", "migrate", "icsp", "a.yaml", "b.yaml", "--dest-dir", "idms-files"], "adm migrate icsp", &["a.yaml", "b.yaml"], &[("dest-dir", "idms-files")])]
#[case(&["adm", "prune", "images", "--confirm=true", "--keep-tag-revisions=3", "--keep-younger-than=60m", "--ignore-invalid-refs=true", "--loglevel=1", "--prune-registry=false"], "adm prune images", &[], &[("confirm", "true"), ("keep-tag-revisions", "3"), ("keep-younger-than", "60m"), ("ignore-invalid-refs", "true"), ("loglevel", "1"), ("prune-registry", "false")])]
#[case(&["login", "-u", "kubeadmin", "-p", "secret", "https://api-int.c.example.com:6443"], "login", &["https://api-int.c.example.com:6443"], &[("username", "kubeadmin"), ("password", "secret")])]
#[case(&["logs", "deployments/image-registry", "-n", "openshift-image-registry"], "logs", &["deployments/image-registry"], &[("namespace", "openshift-image-registry")])]
#[case(&["whoami", "-t"], "whoami", &[], &[("show-token", "true")])]
#[case(&["-n", "ns", "get", "pods"], "get", &["pods"], &[("namespace", "ns")])]
#[case(&["get", "pods", "-nns", "-oyaml"], "get", &["pods"], &[("namespace", "ns"), ("output", "yaml")])]
#[case(&["get", "pods", "-A"], "get", &["pods"], &[("all-namespaces", "true")])]
#[case(&["get", "pods", "-n=ns"], "get", &["pods"], &[("namespace", "ns")])]
fn documented(#[case] line: &[&str], #[case] path: &str, #[case] words: &[&str], #[case] flags: &[(&str, &str)]) {
    let (command, arguments) = parsed(line).expect("a command");
    assert_eq!(command.path, path);
    assert_eq!(arguments.words, words);
    for (flag, value) in flags {
        assert_eq!(arguments.text(flag), Some(*value), "{flag}");
    }
}

#[rstest]
#[case(&["frob"], "error: unknown command \"frob\" for \"oc\"\nRun 'oc --help' for usage.")]
#[case(&["adm", "top"], "error: unknown command \"top\" for \"oc adm\"\nRun 'oc adm --help' for usage.")]
#[case(&["get", "--foo"], "error: unknown flag: --foo\nSee 'oc get --help' for usage.")]
#[case(&["get", "pods", "-o"], "error: flag needs an argument: --output\nSee 'oc get --help' for usage.")]
#[case(&["adm", "prune", "images", "--confirm=maybe"], "error: invalid argument \"maybe\" for \"--confirm\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax\nSee 'oc adm prune images --help' for usage.")]
#[case(&["get", "-q"], "error: unknown shorthand flag: 'q' in -q\nSee 'oc get --help' for usage.")]
fn refused(#[case] line: &[&str], #[case] message: &str) {
    let failure = parsed(line).map(|_| ()).expect_err("a refusal");
    assert_eq!(failure.to_string(), message);
    assert_eq!(failure.exit_code(), 1);
}

#[test]
fn another_programs_flags_are_left_alone() {
    let (_, arguments) = parsed(&["rsh", "-n", "ns", "pod", "ls", "-l", "--all"]).expect("a command");
    assert_eq!(arguments.words, ["pod", "ls", "-l", "--all"]);
    let (_, arguments) = parsed(&["exec", "pod", "-c", "x", "--", "ls", "-l"]).expect("a command");
    assert_eq!(arguments.command.as_deref(), Some(["ls".to_owned(), "-l".to_owned()].as_slice()));
    assert_eq!(arguments.text("container"), Some("x"));
}

#[test]
fn every_command_has_help_and_no_flag_twice() {
    for command in COMMANDS {
        assert!(command.help().contains(command.path));
        let mut names: Vec<&str> = command.flags.iter().map(|flag| flag.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{}", command.path);
    }
}

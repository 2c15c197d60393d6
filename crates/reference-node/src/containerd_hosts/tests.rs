//! What containerd makes of the files, told by its own rules: hosts in file order, the server last, each asked only for
//! what its capabilities allow, and a bare server is the registry host with every capability (hosts.go, parseHostsFile and
//! ConfigureHosts; resolver.go, Resolve).

use super::*;
use crate::registries_conf::tables;
use crate::registries_conf::tests::rules;
use rstest::rstest;

/// One host as containerd has it after reading a file.
#[derive(Debug, PartialEq)]
struct Asked {
    url: String,
    capabilities: Vec<String>,
    skip_verify: bool,
    ca: Vec<String>,
}

fn read(host: &str, text: &str) -> Vec<Asked> {
    let file: toml::Table = text.parse().expect("TOML");
    assert!(file.contains_key("host"), "containerd 1.7 overlooks the file:\n{text}");
    let order = text.lines().filter_map(|line| line.strip_prefix("[host.\"")?.strip_suffix("\"]"));
    let strings = |table: &toml::Table, key: &str| -> Vec<String> {
        let items = table.get(key).and_then(toml::Value::as_array).into_iter().flatten();
        items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let asked = |url: String, table: &toml::Table| {
        let mut capabilities = strings(table, "capabilities");
        if capabilities.is_empty() {
            capabilities = ["pull", "resolve", "push"].map(str::to_owned).to_vec();
        }
        let flag = |key: &str| table.get(key).and_then(toml::Value::as_bool).unwrap_or_default();
        // Without override_path the API root is the URL and /v2 after it.
        let root = if flag("override_path") { url } else { format!("{url}/v2") };
        Asked { url: root, capabilities, skip_verify: flag("skip_verify"), ca: strings(table, "ca") }
    };
    let mut all: Vec<Asked> =
        order.map(|url| asked(url.to_owned(), file["host"][url].as_table().expect("a table"))).collect();
    let server = file.get("server").and_then(toml::Value::as_str);
    let own = asked(server.map_or_else(|| format!("https://{host}"), str::to_owned), &file);
    all.push(match server {
        Some(_) => own,
        // A server that is not named gets every capability, whatever the file says.
        None => Asked { capabilities: ["pull", "resolve", "push"].map(str::to_owned).to_vec(), ..own },
    });
    all
}

/// The roots asked to resolve a tag, or to deliver by digest, in order and separated by blanks.
fn roots(asked: &[Asked], needed: &[&str]) -> String {
    let able = |one: &&Asked| needed.iter().all(|need| one.capabilities.iter().any(|able| able == need));
    asked.iter().filter(able).map(|one| one.url.as_str()).collect::<Vec<_>>().join(" ")
}

fn files(input: &str, trust: &Trust) -> HostFiles {
    let rules = rules(input);
    rules.validate().expect("lawful rules");
    render(&tables(&rules).expect("tables"), trust)
}

const NOBODY: &str = "";

#[rstest]
#[case::order("I{s.com=>b.com,a.com}", "https://b.com/v2 https://a.com/v2 https://s.com/v2", "https://s.com/v2")]
#[case::port("I{s.com:5000=>m.com:8443}", "https://m.com:8443/v2 https://s.com:5000/v2", "https://s.com:5000/v2")]
#[case::path("I{s.com=>m.com/a/b}", "https://m.com/v2/a/b https://s.com/v2", "https://s.com/v2")]
#[case::never("I{s.com=>a.com,b.com!}", "https://a.com/v2 https://b.com/v2", NOBODY)]
#[case::never_by_tag("T{s.com=>t.com!}", "https://t.com/v2", "https://t.com/v2")]
#[case::both(
    "I{s.com=>m.com} T{s.com=>m.com}",
    "https://m.com/v2 https://s.com/v2",
    "https://m.com/v2 https://s.com/v2"
)]
#[case::digest_then_tag(
    "I{s.com=>d.com} T{s.com=>t.com}",
    "https://d.com/v2 https://t.com/v2 https://s.com/v2",
    "https://t.com/v2 https://s.com/v2"
)]
#[case::policy_object("C{s.com=>m.com}", "https://m.com/v2 https://s.com/v2", "https://s.com/v2")]
#[case::source_first("I{s.com=>s.com,m.com}", "https://s.com/v2 https://m.com/v2 https://s.com/v2", "https://s.com/v2")]
#[case::docker_hub_source("I{docker.io=>m.com}", "https://m.com/v2 https://docker.io/v2", "https://docker.io/v2")]
#[case::docker_hub_mirror(
    "I{s.com=>docker.io}",
    "https://registry-1.docker.io/v2 https://s.com/v2",
    "https://s.com/v2"
)]
#[case::blocked("blk[s.com]", NOBODY, NOBODY)]
#[case::blocked_with_mirror("I{s.com=>m.com} blk[s.com]", "https://m.com/v2", NOBODY)]
#[case::blocked_mirror("I{s.com=>m.com/x,n.com} blk[m.com]", "https://n.com/v2 https://s.com/v2", "https://s.com/v2")]
#[case::blocked_mirror_port(
    "I{s.com=>m.com:5000/x,n.com} blk[m.com]",
    "https://n.com/v2 https://s.com/v2",
    "https://s.com/v2"
)]
#[case::insecure("ins[s.com]", "http://s.com/v2", "http://s.com/v2")]
#[case::insecure_mirror(
    "I{s.com=>m.local:5000} ins[m.local:5000]",
    "http://m.local:5000/v2 https://s.com/v2",
    "https://s.com/v2"
)]
#[case::insecure_and_blocked("ins[s.com] blk[s.com]", NOBODY, NOBODY)]
fn asks(#[case] input: &str, #[case] by_digest: &str, #[case] by_tag: &str) {
    let made = files(input, &Trust::new());
    let host = if input.contains("s.com:5000") {
        "s.com:5000"
    } else if input.contains("docker.io=>") {
        "docker.io"
    } else {
        "s.com"
    };
    let asked = read(host, &made.files[host]);
    assert_eq!(roots(&asked, &["pull"]), by_digest, "by digest\n{}", made.files[host]);
    assert_eq!(roots(&asked, &["pull", "resolve"]), by_tag, "by tag\n{}", made.files[host]);
    for one in &asked {
        assert_eq!(one.skip_verify, one.url.starts_with("http://"), "{one:?}");
    }
}

#[rstest]
#[case("", &[])]
#[case("I{s.com=>m.com}", &[])]
#[case("I{s.com/ns=>m.com/ns}", &["s.com/ns is a part of a registry host, and containerd has rules for whole hosts only"])]
#[case("I{*.s.com=>m.com}", &["*.s.com is a domain pattern, and containerd has rules for single hosts only"])]
#[case("T{s.com=>m.com}", &["containerd asks m.com for images of s.com by digest too, although it is for tags"])]
#[case("I{s.com=>m.com} T{s.com=>m.com}", &[])]
#[case("T{s.com=>m.com} blk[m.com]", &[])]
#[case("blk[https://r.ex]", &["https://r.ex is a part of a registry host, and containerd has rules for whole hosts only"])]
fn departures(#[case] input: &str, #[case] expected: &[&str]) {
    let told: Vec<String> = files(input, &Trust::new()).departures.iter().map(ToString::to_string).collect();
    assert_eq!(told, expected);
}

/// No file is made for a part of a host, and none that would say nothing.
#[rstest]
#[case("I{s.com/ns=>m.com/ns}", "")]
#[case("I{r.com=>m.com;r.com/ns=>m2.com/y}", "r.com")]
#[case("I{s.com=>m.com} blk[m.com]", "m.com")]
#[case("I{s.com=>s.com}", "")]
fn hosts_with_a_file(#[case] input: &str, #[case] expected: &str) {
    assert_eq!(files(input, &Trust::new()).files.into_keys().collect::<Vec<_>>().join(" "), expected);
}

fn trust() -> Trust {
    let of = |host: &str| HostTrust { authorities: vec![format!("/certs/{host}/ca.crt")], clients: vec![] };
    let mut all: Trust =
        ["s.com", "m.com", "m.com:5000", "only.trusted"].map(|host| (host.to_owned(), of(host))).into();
    all.insert(
        "with.client".to_owned(),
        HostTrust { authorities: vec![], clients: vec![("a.cert".into(), "a.key".into())] },
    );
    all
}

#[rstest]
#[case("I{s.com=>m.com/x}", "s.com", &["/certs/m.com/ca.crt", "/certs/s.com/ca.crt"])]
#[case("I{s.com=>m.com:5000}", "s.com", &["/certs/m.com:5000/ca.crt", "/certs/s.com/ca.crt"])]
#[case("I{s.com=>other.com}", "s.com", &["/certs/s.com/ca.crt"])]
#[case("", "only.trusted", &["/certs/only.trusted/ca.crt"])]
fn trusts(#[case] input: &str, #[case] host: &str, #[case] expected: &[&str]) {
    let made = files(input, &trust());
    let found: Vec<String> = read(host, &made.files[host]).into_iter().flat_map(|one| one.ca).collect();
    assert_eq!(found, expected);
}

/// In every combination the digests of a whole host go to the digest mirrors that are not blocked, in order, and to the
/// source last unless that is blocked; by tag no digest mirror is asked to resolve.
#[rstest]
fn follows_registries_conf(
    #[values("", "I{s.com=>m1.com,m2.com/p}", "I{s.com=>m2.com/p!}", "C{s.com=>m1.com}")] digest: &str,
    #[values("", "T{t.com=>m1.com}", "T{t.com/ns=>m3.com}")] tag: &str,
    #[values("", "blk[m1.com]", "blk[s.com]", "blk[m2.com,t.com]")] blocked: &str,
    #[values("", "ins[m1.com]", "ins[s.com,m2.com/p]")] insecure: &str,
) {
    let rules = rules(&format!("{digest} {tag} {blocked} {insecure}"));
    let tables = tables(&rules).expect("tables");
    let made = render(&tables, &trust());
    let table = tables.iter().find(|table| table.scope == "s.com");
    let is_blocked = |host: &str| rules.blocked.iter().flatten().any(|blocked| blocked == host);
    let mut wanted: Vec<String> = vec![];
    for mirror in table.iter().flat_map(|table| &table.mirrors) {
        let (host, path) = mirror.location.split_once('/').unwrap_or((&mirror.location, ""));
        if !is_blocked(host) {
            let scheme = if mirror.insecure { "http" } else { "https" };
            wanted.push(format!("{scheme}://{host}/v2/{path}").trim_end_matches('/').to_owned());
        }
    }
    if table.is_none_or(|table| !table.blocked) {
        let scheme = if table.is_some_and(|table| table.insecure) { "http" } else { "https" };
        wanted.push(format!("{scheme}://s.com/v2"));
    }
    let asked = read("s.com", &made.files["s.com"]);
    assert_eq!(roots(&asked, &["pull"]), wanted.join(" "));
    let resolving = roots(&asked, &["pull", "resolve"]);
    assert!(resolving.is_empty() || resolving.ends_with("://s.com/v2") && !resolving.contains(' '), "{resolving}");
    assert_eq!(made.departures.contains(&Departure::BelowHost { scope: "t.com/ns".into() }), tag.contains("t.com/ns"));
}

#[test]
fn text_of_everything() {
    let text = &files("I{s.com=>m.com/x,m.com:5000!}", &trust()).files["s.com"];
    assert_eq!(
        text,
        &format!(
            r#"{MARKER}
server = "https://s.com"
capabilities = ["push"]
ca = ["/certs/s.com/ca.crt"]

[host."https://m.com/v2/x"]
  capabilities = ["pull"]
  override_path = true
  ca = ["/certs/m.com/ca.crt"]

[host."https://m.com:5000"]
  capabilities = ["pull"]
  ca = ["/certs/m.com:5000/ca.crt"]
"#
        )
    );
    let client = &files("", &trust()).files["with.client"];
    assert_eq!(client, &format!("{MARKER}\nclient = [[\"a.cert\", \"a.key\"]]\n\n[host]\n"));
}

//! Worked examples: compact rules on the left, the tables or the refusal they must give on the right.

use super::*;
use rstest::rstest;

/// Reads `I{source=>mirror,mirror!}` blocks: I, T and C are the three kinds of object, `!` forbids the source; the
/// lists of the image configuration are `blk[..]`, `ins[..]`, `alw[..]`, `srch[..]`.
pub(crate) fn rules(text: &str) -> MirrorRules {
    let mut rules = MirrorRules::default();
    for part in text.split_whitespace() {
        if let Some((list, entries)) = part.strip_suffix(']').and_then(|p| p.split_once('[')) {
            let entries: Vec<String> = entries.split(',').map(str::to_owned).collect();
            match list {
                "blk" => rules.blocked = Some(entries),
                "ins" => rules.insecure = Some(entries),
                "alw" => rules.allowed = Some(entries),
                "srch" => rules.search = entries,
                "payload" => rules.payload = entries.into_iter().next(),
                other => panic!("no such list: {other}"),
            }
            continue;
        }
        rules.any_object = true;
        let (kind, body) = part.strip_suffix('}').and_then(|p| p.split_once('{')).expect("a block");
        for entry in body.split(';').filter(|entry| !entry.is_empty()) {
            let (source, mirrors) = entry.split_once("=>").expect("source=>mirrors");
            let (mirrors, policy) = match mirrors.strip_suffix('!') {
                Some(mirrors) => (mirrors, SourcePolicy::NeverContactSource),
                None => (mirrors, SourcePolicy::AllowContactingSource),
            };
            let mirrors = if mirrors.is_empty() { Vec::new() } else { mirrors.split(',').map(str::to_owned).collect() };
            let rule = MirrorRule { source: source.to_owned(), mirrors, policy };
            match kind {
                "I" => rules.digest.push(rule),
                "C" => rules.content_source.push(rule),
                "T" => rules.tag.push(rule),
                other => panic!("no such object: {other}"),
            }
        }
    }
    rules
}

/// Writes tables as `scope BI: d:mirror(I) t:mirror`, joined by ` | `.
fn compact(tables: &[Registry]) -> String {
    let table = |table: &Registry| {
        let mut words = vec![table.scope.clone()];
        for (set, mark) in [(table.insecure, "I"), (table.blocked, "B")] {
            if set {
                words.push(mark.to_owned());
            }
        }
        for mirror in &table.mirrors {
            let kind = if mirror.pull == PullFromMirror::DigestOnly { "d" } else { "t" };
            words.push(format!("{kind}:{}{}", mirror.location, if mirror.insecure { "(I)" } else { "" }));
        }
        words.join(" ")
    };
    tables.iter().map(table).collect::<Vec<_>>().join(" | ")
}

#[rstest]
#[case("I{s.ex=>z.ex,y.ex}", "s.ex d:z.ex d:y.ex")]
#[case("I{s.com=>c.com} C{s.com=>b.com}", "s.com d:b.com d:c.com")]
#[case(
    "I{r.com/ns/app=>m3.com/x;r.com=>m1.com;r.com/ns=>m2.com/y}",
    "r.com d:m1.com | r.com/ns d:m2.com/y | r.com/ns/app d:m3.com/x"
)]
#[case("I{r.com:5000=>m.com:443/a}", "r.com:5000 d:m.com:443/a")]
#[case(
    "I{Z.com=>m;a.com=>m;a.com:443=>m;a.com/x=>m;a.com-b=>m;*.a.com=>m}",
    "*.a.com d:m | Z.com d:m | a.com d:m | a.com-b d:m | a.com/x d:m | a.com:443 d:m"
)]
#[case("I{s=>s}", "")]
#[case("I{s=>m,s}", "s d:m")]
#[case("I{s.com=>s.com,m.com}", "s.com d:s.com d:m.com")]
#[case("I{s=>!}", "")]
#[case("C{registry.ex=>m1,m1,m2}", "registry.ex d:m1 d:m2")]
#[case(
    "I{*.example.com=>m.com/mirror;foo.example.com=>m2.com}",
    "*.example.com d:m.com/mirror | foo.example.com d:m2.com"
)]
#[case("I{s.com=>m.com!}", "s.com B d:m.com")]
#[case("T{s.com=>t1,t2!}", "s.com B t:t1 t:t2")]
#[case("I{s=>d1,d2} T{s=>t1,t2}", "s d:d1 d:d2 t:t1 t:t2")]
#[case("I{s=>m} T{s=>m}", "s d:m t:m")]
#[case("I{s=>a,b} C{s=>b,c}", "s d:a d:b d:c")]
#[case("I{r.com=>m1!} T{r.com/ns=>m2/y}", "r.com B d:m1 | r.com/ns t:m2/y")]
#[case("I{r.com=>m.com} blk[r.com]", "r.com B d:m.com")]
#[case("I{r.com=>m.com/ns} blk[m.com]", "r.com d:m.com/ns | m.com B")]
#[case("I{r.com/ns=>m} blk[r.com]", "r.com/ns B d:m | r.com B")]
#[case(
    "I{primary/top=>mir/primary} blk[primary/top/blocked] ins[primary/top/insecure]",
    "primary/top d:mir/primary | primary/top/blocked B d:mir/primary/blocked | primary/top/insecure I d:mir/primary/insecure"
)]
#[case(
    "I{r.com=>m1.com;r.com/ns=>m2.com/y} blk[r.com/ns/app]",
    "r.com d:m1.com | r.com/ns d:m2.com/y | r.com/ns/app B d:m1.com/ns/app"
)]
#[case(
    "I{r.com=>m1.local:5000/ns,m1.local/ns} ins[m1.local:5000]",
    "r.com d:m1.local:5000/ns(I) d:m1.local/ns | m1.local:5000 I"
)]
#[case("I{r.com=>m1.local:5000,m3.com} ins[*.local]", "r.com d:m1.local:5000(I) d:m3.com | *.local I")]
#[case(
    "ins[registry.access.redhat.com,insecure.com,common.com] blk[blocked.com,common.com,docker.io]",
    "blocked.com B | common.com I B | docker.io B | registry.access.redhat.com I | insecure.com I"
)]
#[case("blk[https://r.ex]", "https://r.ex B")]
#[case("blk[r.ex/] ins[r.ex]", "r.ex/ I B | r.ex I")]
#[case("I{s.com=>ex.com:5000/x} blk[ex.com]", "s.com d:ex.com:5000/x | ex.com B")]
#[case("alw[s.com] I{s.com=>m.com}", "s.com d:m.com")]
#[case("payload[quay.io/ocp/release] blk[quay.io,other.io]", "other.io B")]
#[case("payload[quay.io/ocp/release] blk[quay.io] I{quay.io/ocp=>m.com/ocp}", "quay.io/ocp B d:m.com/ocp | quay.io B")]
#[case("I{}", "")]
fn tables_of(#[case] input: &str, #[case] expected: &str) {
    let rules = rules(input);
    rules.validate().expect("lawful rules");
    assert_eq!(compact(&tables(&rules).expect("tables")), expected);
}

const CONFLICT: &str = "conflicting mirrorSourcePolicy is set for the same source \"s\" in imagedigestmirrorsets, imagetagmirrorsets, or imagecontentsourcepolicies";

#[rstest]
#[case("I{s=>a!} I{s=>}", CONFLICT)]
#[case("I{s=>a!} I{s=>b}", CONFLICT)]
#[case("I{s=>a!} T{s=>b}", CONFLICT)]
#[case("I{s=>a!} C{s=>b}", CONFLICT)]
#[case("I{s=>m,s!}", "cannot set mirrorSourcePolicy: NeverContactSource if the source \"s\" is one of the mirrors")]
#[case(
    "I{*.example.com=>m.com} blk[foo.example.com]",
    "internal error: mirrorsAdjustedForNestedScope for a wildcard scope \"*.example.com\""
)]
#[case("C{r.com/ns/app:latest=>m}", "invalid format for source \"r.com/ns/app:latest\"")]
#[case("C{r.com=>*.m.com}", "invalid format for mirror \"*.m.com\"")]
#[case("C{r.com=>a,,b}", "invalid format for mirror \"\"")]
#[case("blk[*.a.com/x]", "invalid entry for blocked registries \"*.a.com/x\"")]
#[case("ins[]", "invalid entry for insecure registries \"\"")]
#[case("alw[a] blk[b]", "invalid images config: only one of AllowedRegistries or BlockedRegistries may be specified")]
fn refuses(#[case] input: &str, #[case] message: &str) {
    assert_eq!(render(&rules(input)).expect_err("a refusal").to_string(), message);
}

/// Two objects that exist apart and in either order lead to the same file.
#[rstest]
#[case("I{s=>a,b} C{s=>b,c}", "C{s=>b,c} I{s=>a,b}")]
#[case("I{a.com=>m} I{b.com=>m}", "I{b.com=>m} I{a.com=>m}")]
#[case("I{r.com/x=>m.com}", "C{r.com/x=>m.com}")]
fn same_file(#[case] first: &str, #[case] second: &str) {
    assert_eq!(render(&rules(first)), render(&rules(second)));
}

#[rstest]
#[case::nothing("", DEFAULT_FILE)]
#[case::search_only("srch[reg1,reg2]", DEFAULT_FILE)]
#[case::empty_object("I{}", include_str!("golden/empty_object.conf"))]
#[case::documented("I{registry.access.redhat.com/ubi9/ubi-minimal=>example.io/example/ubi-minimal,example.com/example/ubi-minimal;registry.example.com/redhat=>mirror.example.com/redhat;registry.example.com=>mirror.example.com;registry.example.com/example/myimage=>mirror.example.net/image;registry.example.com/example=>mirror.example.net;registry.example.com=>mirror.example.net/registry-example-com}", include_str!("golden/documented_digest_set.conf"))]
#[case::documented_policy("C{quay.io/openshift-release-dev/ocp-release=>mirror.registry.com:443/ocp/release;quay.io/openshift-release-dev/ocp-v4.0-art-dev=>mirror.registry.com:443/ocp/release}", include_str!("golden/documented_content_source_policy.conf"))]
#[case::everything("I{s.com/a=>m.com/a!;*.example.com=>m.com/all} T{s.com/b=>m.com/b} ins[m.com] blk[bad.com]", include_str!("golden/every_key.conf"))]
fn golden(#[case] input: &str, #[case] expected: &str) {
    let rendered = render(&rules(input)).expect("lawful rules");
    assert_eq!(rendered, expected);
    rendered.parse::<toml::Table>().expect("TOML");
}

#[rstest]
#[case("", None)]
#[case("srch[reg1,reg2]", Some("unqualified-search-registries = [\"reg1\", \"reg2\"]\nshort-name-mode = \"\"\n"))]
fn search_list(#[case] input: &str, #[case] expected: Option<&str>) {
    assert_eq!(search_drop_in(&rules(input)).as_deref(), expected);
}

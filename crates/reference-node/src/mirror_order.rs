//! The order in which the mirrors of one source are tried when several objects name them. What the lists
//! become in the file is left to `registries_conf`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Merges the mirror lists of one source into one order that respects every list where that is possible.
///
/// Each list says that its earlier entries come first, and that the source comes after all of them unless the list
/// places it itself. Where lists do not compare, the byte order of the names decides; a contradiction is not an
/// error: the byte-smallest name that is left breaks it. The source is part of the result only when something has
/// to follow it, because the consumer tries it last anyway.
///
/// Source: OpenShift runtime-utils pkg/registries/registries.go:82-109 and topo.go:62-118 (master 7bdb5b9).
pub fn merge(source: &str, lists: &[&[String]]) -> Vec<String> {
    let mut order = Graph::new(source, lists).sorted();
    if order.last().is_some_and(|last| *last == source) {
        order.pop();
    }
    order.into_iter().map(str::to_owned).collect()
}

struct Graph<'a> {
    following: BTreeMap<&'a str, BTreeSet<&'a str>>,
    before: BTreeMap<&'a str, usize>,
}

impl<'a> Graph<'a> {
    fn new(source: &'a str, lists: &[&'a [String]]) -> Self {
        let mut graph = Graph { following: BTreeMap::new(), before: BTreeMap::new() };
        graph.node(source);
        for list in lists {
            for pair in list.windows(2) {
                graph.edge(&pair[0], &pair[1]);
            }
            match list.last() {
                Some(last) if !list.iter().any(|mirror| mirror == source) => graph.edge(last, source),
                _ => {}
            }
        }
        graph
    }

    fn node(&mut self, name: &'a str) {
        self.following.entry(name).or_default();
        self.before.entry(name).or_default();
    }

    fn edge(&mut self, first: &'a str, second: &'a str) {
        self.node(first);
        self.node(second);
        if self.following.entry(first).or_default().insert(second) {
            *self.before.entry(second).or_default() += 1;
        }
    }

    fn sorted(mut self) -> Vec<&'a str> {
        let mut unused: BTreeSet<&str> = self.before.keys().copied().collect();
        let mut free: VecDeque<&str> =
            self.before.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect();
        let mut order = Vec::with_capacity(unused.len());
        while let Some(next) = free.pop_front().or_else(|| unused.first().copied()) {
            if !unused.remove(next) {
                continue;
            }
            order.push(next);
            for follower in std::mem::take(self.following.entry(next).or_default()) {
                let Some(count) = self.before.get_mut(follower) else { continue };
                *count -= 1;
                if *count == 0 && unused.contains(follower) {
                    free.push_back(follower);
                }
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::given_order("s.ex", "z.ex y.ex", "z.ex y.ex")]
    #[case::chain("s", "b c | a b", "a b c")]
    #[case::overlap("s", "a b c | c d e", "a b c d e")]
    #[case::interleave("s.com", "z1 z2 | a1 a2", "a1 z1 a2 z2")]
    #[case::singles("s.com", "c.com | b.com", "b.com c.com")]
    #[case::cycle("registry.ex", "m1 m2 | m2 m1", "m1 m2")]
    #[case::cycle_source_first("a-src.ex", "r1 r2 | r2 r1", "a-src.ex r1 r2")]
    #[case::partly_reversed("s", "reg1 reg2 | local reg2 reg1", "local reg1 reg2")]
    #[case::source_last("s", "m s", "m")]
    #[case::source_first("s.com", "s.com m.com", "s.com m.com")]
    #[case::duplicate("registry.ex", "m1 m1 m2", "m1 m2")]
    #[case::duplicate_inverts("a.com", "z.com z.com b.com", "a.com b.com z.com")]
    fn orders(#[case] source: &str, #[case] lists: &str, #[case] expected: &str) {
        let owned: Vec<Vec<String>> =
            lists.split('|').map(|list| list.split_whitespace().map(str::to_owned).collect()).collect();
        let borrowed: Vec<&[String]> = owned.iter().map(Vec::as_slice).collect();
        assert_eq!(merge(source, &borrowed).join(" "), expected);
    }
}

//! "Did you mean": the known names that look most like a name that is not known.

/// At most three of `known` that are close to `name`, the closest first.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = name.to_lowercase();
    let limit = (wanted.chars().count() / 3).max(2);
    let mut ranked: Vec<(usize, &str)> = known
        .into_iter()
        .map(|candidate| (score(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}

/// The ending of an error message: what was probably meant, else what exists.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let close = nearest(name, known.iter().copied());
    if !close.is_empty() {
        return format!("did you mean {}?", close.join(" or "));
    }
    match known.len() {
        0 => "none are known".to_owned(),
        1..=12 => format!("known are: {}", known.join(", ")),
        more => format!("{more} are known, for example {}", known[..6].join(", ")),
    }
}

fn score(wanted: &str, candidate: &str) -> usize {
    // A part of a longer name counts as near, so that `S3-SECRET` finds `STO-S3-SECRET`.
    if wanted.len() >= 4 && (candidate.contains(wanted) || wanted.contains(candidate) && candidate.len() >= 4) {
        return 1;
    }
    distance(wanted, candidate)
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("STO-S3-SECERT", &["STO-S3-SECRET"])]
    #[case("S3-SECRET", &["STO-S3-SECRET"])]
    #[case("miroring", &["mirroring"])]
    #[case("entirely-else", &[])]
    fn finds_what_was_meant(#[case] name: &str, #[case] expected: &[&str]) {
        assert_eq!(nearest(name, ["STO-S3-SECRET", "STO-EMP-PATCH", "mirroring", "storage"]), expected);
    }
}

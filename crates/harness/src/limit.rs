//! Time limits as people write them, `45s` or `1m 30s`, and as messages print them.

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// Reads a time limit.
///
/// # Errors
/// A sentence that shows the form when the text is no positive duration with a unit.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time limit; write it with its unit, like \"45s\", \"2m\" or \"1m 30s\"");
    let signed: SignedDuration = text.trim().parse().map_err(|_| wrong())?;
    let limit = Duration::try_from(signed).map_err(|_| wrong())?;
    if limit.is_zero() { Err(wrong()) } else { Ok(limit) }
}

/// Prints a limit the way [`parse`] reads it.
pub fn text(limit: Duration) -> String {
    SignedDuration::try_from(limit).map_or_else(|_| format!("{limit:?}"), |signed| format!("{signed:#}"))
}

/// For `#[serde(deserialize_with)]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// For `#[serde(serialize_with)]`.
pub fn serialize<S: Serializer>(limit: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*limit))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("45s", 45_000)]
    #[case("2m", 120_000)]
    #[case("1m 30s", 90_000)]
    #[case("250ms", 250)]
    fn reads_what_it_prints(#[case] written: &str, #[case] milliseconds: u64) {
        let limit = parse(written).unwrap();
        assert_eq!(limit, Duration::from_millis(milliseconds));
        assert_eq!(text(limit), written);
    }

    #[rstest]
    #[case("45")]
    #[case("-3s")]
    #[case("0s")]
    #[case("soon")]
    fn refuses_what_has_no_unit_or_no_length(#[case] written: &str) {
        assert!(parse(written).unwrap_err().contains("write it with its unit"));
    }
}

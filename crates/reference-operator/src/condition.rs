//! Conditions as the operator writes them: one statement per type, the time of change kept when nothing changed.
//! Which statement is true is decided by the controllers.

use api::condition::OperatorCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// The three values of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It could not be found out.
    Unknown,
}

impl Truth {
    /// As it stands in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Truth {
    fn from(value: bool) -> Self {
        if value { Self::True } else { Self::False }
    }
}

/// What a controller says about one type; a time is added when it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What it is about, for example `Available`.
    pub type_: String,
    /// Whether it is so.
    pub truth: Truth,
    /// The cause in one word, except in storage conditions, whose reasons are phrases.
    pub reason: String,
    /// The cause for people.
    pub message: String,
}

impl Statement {
    /// A statement from its parts.
    pub fn new(type_: &str, truth: impl Into<Truth>, reason: &str, message: impl Into<String>) -> Self {
        Self { type_: type_.to_owned(), truth: truth.into(), reason: reason.to_owned(), message: message.into() }
    }
}

/// Writes `statements` into `conditions`; the time of transition moves only when the status changes.
pub fn record(conditions: &mut Vec<OperatorCondition>, statements: &[Statement], now: Timestamp) {
    for statement in statements {
        let status = statement.truth.as_str();
        let known = conditions.iter_mut().find(|condition| condition.type_ == statement.type_);
        match known {
            Some(condition) => {
                if condition.status != status {
                    condition.last_transition_time = Some(Time(now));
                }
                condition.status = status.to_owned();
                condition.reason.clone_from(&statement.reason);
                condition.message.clone_from(&statement.message);
            }
            None => conditions.push(OperatorCondition {
                type_: statement.type_.clone(),
                status: status.to_owned(),
                last_transition_time: Some(Time(now)),
                reason: statement.reason.clone(),
                message: statement.message.clone(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::same_status(Truth::True, 100)]
    #[case::other_status(Truth::False, 200)]
    fn the_time_moves_with_the_status_only(#[case] truth: Truth, #[case] want: i64) {
        let at = |seconds| Timestamp::from_second(seconds).expect("a valid time");
        let mut conditions = Vec::new();
        record(&mut conditions, &[Statement::new("Available", true, "Ready", "a")], at(100));
        record(&mut conditions, &[Statement::new("Available", truth, "Other", "b")], at(200));
        assert_eq!(conditions.len(), 1);
        assert_eq!(conditions[0].last_transition_time, Some(Time(at(want))));
        assert_eq!((conditions[0].reason.as_str(), conditions[0].message.as_str()), ("Other", "b"));
    }
}

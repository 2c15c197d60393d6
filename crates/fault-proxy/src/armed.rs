//! Rules that are switched on: they match exchanges, count them, remember first answers and note each hit.
//! A new set of faults is a new value; exchanges that began under the old one end under it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use crate::fault::{Act, Fault, Match, Seam};

/// One application of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Id of the fault.
    pub fault: String,
    /// Position of the rule in the fault, from 0.
    pub rule: usize,
    /// Method of the request.
    pub method: String,
    /// Path and query of the request.
    pub path: String,
    /// When.
    pub at: SystemTime,
}

/// The rules of all faults that are on.
#[derive(Debug, Default)]
pub(crate) struct Armed {
    rules: Vec<ArmedRule>,
}

/// A rule with its counters.
#[derive(Debug)]
pub(crate) struct ArmedRule {
    fault: String,
    index: usize,
    when: Match,
    pub(crate) act: Act,
    seen: AtomicU64,
    memory: Mutex<HashMap<String, Remembered>>,
}

/// A first answer, for rules that give it for ever.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Armed {
    pub(crate) fn new(faults: Vec<Fault>) -> Armed {
        let exchanges = faults.into_iter().filter(|fault| fault.seam != Seam::NodeFiles);
        let rules = exchanges.flat_map(|fault| {
            let id = fault.id;
            fault.rules.into_iter().enumerate().filter_map(move |(index, rule)| {
                let (when, act) = (rule.when, rule.act?);
                Some(ArmedRule {
                    fault: id.clone(),
                    index,
                    when,
                    act,
                    seen: AtomicU64::new(0),
                    memory: Mutex::default(),
                })
            })
        });
        Armed { rules: rules.collect() }
    }

    /// Rules whose conditions on method, path, query and headers hold.
    pub(crate) fn candidates(&self, parts: &Parts) -> Vec<&ArmedRule> {
        self.rules.iter().filter(|rule| rule.matches_head(parts)).collect()
    }
}

impl ArmedRule {
    fn matches_head(&self, parts: &Parts) -> bool {
        let when = &self.when;
        let header = |name: &String| parts.headers.get(name).and_then(|value| value.to_str().ok());
        (when.methods.is_empty() || when.methods.iter().any(|method| method == parts.method.as_str()))
            && when.path.as_ref().is_none_or(|path| path.matches(parts.uri.path()))
            && when.query.as_ref().is_none_or(|query| query.matches(parts.uri.query().unwrap_or_default()))
            && when.headers.iter().all(|(name, pattern)| header(name).is_some_and(|value| pattern.matches(value)))
    }

    /// Whether the request's body decides if the rule matches, or is changed or given back by it.
    pub(crate) fn needs_request_body(&self) -> bool {
        !self.when.body.is_empty()
            || self.act.swallow
            || self.act.request.as_ref().is_some_and(|edit| edit.needs_whole_body())
    }

    /// Whether the answer's body must be there in a form that can be changed.
    pub(crate) fn needs_response_body(&self) -> bool {
        self.act.stale || self.act.response.as_ref().is_some_and(|edit| edit.needs_whole_body())
    }

    pub(crate) fn changes_response_json(&self) -> bool {
        self.act.response.as_ref().is_some_and(|edit| edit.changes_json())
    }

    pub(crate) fn matches_body(&self, body: &Bytes) -> bool {
        if self.when.body.is_empty() {
            return true;
        }
        serde_json::from_slice::<Value>(body)
            .is_ok_and(|document| self.when.body.iter().all(|condition| condition.holds(&document)))
    }

    /// Whether the rule waits for the answer's status.
    pub(crate) fn waits_for_status(&self) -> bool {
        !self.when.status.is_empty()
    }

    pub(crate) fn matches_status(&self, status: StatusCode) -> bool {
        self.when.status.contains(&status.as_u16())
    }

    /// Counts a match and says whether it is one to act on.
    pub(crate) fn take(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        let Some(turn) = seen.checked_sub(self.when.after) else { return false };
        self.when.times.is_none_or(|times| turn < times)
    }

    pub(crate) fn hit(&self, method: &str, path: &str) -> Hit {
        Hit {
            fault: self.fault.clone(),
            rule: self.index,
            method: method.to_owned(),
            path: path.to_owned(),
            at: SystemTime::now(),
        }
    }

    /// The first answer to this address, if there was one.
    pub(crate) fn remembered(&self, address: &str) -> Option<Remembered> {
        self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(address).cloned()
    }

    /// Keeps the first answer; later ones change nothing.
    pub(crate) fn remember(&self, address: &str, answer: &Remembered) {
        let mut memory = self.memory.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        memory.entry(address.to_owned()).or_insert_with(|| answer.clone());
    }
}

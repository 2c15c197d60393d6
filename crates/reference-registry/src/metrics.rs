//! The registry's Prometheus metrics and their text form, names and kinds as in registry source
//! pkg/dockerregistry/server/metrics/prometheus.go. The text is written here rather than by an exporter, because summaries
//! over a sliding window, label order and help texts are part of what the documents show.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

/// How far back the quantiles of a summary look.
const WINDOW: Duration = Duration::from_secs(600);
/// How many observations a summary keeps for its quantiles.
const KEPT: usize = 4096;
const QUANTILES: [(&str, f64); 3] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99)];

#[derive(Clone, Copy)]
enum Type {
    Counter,
    Summary,
}

struct Family {
    name: &'static str,
    help: &'static str,
    kind: Type,
    labels: &'static [&'static str],
}

macro_rules! families {
    ($($constant:ident = $name:literal $kind:ident [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: Family = Family {
            name: $name, help: $help, kind: Type::$kind, labels: &[$($label),*],
        };)*
    };
}

families! {
    REQUESTS = "imageregistry_http_requests_total" Counter ["code", "method"]
        "A counter for requests to the registry.";
    REQUEST_DURATION = "imageregistry_http_request_duration_seconds" Summary ["method"]
        "A histogram of latencies for requests to the registry.";
    REQUEST_SIZE = "imageregistry_http_request_size_bytes" Summary []
        "A histogram of sizes of requests to the registry.";
    RESPONSE_SIZE = "imageregistry_http_response_size_bytes" Summary []
        "A histogram of response sizes for requests to the registry.";
    OPERATION_DURATION = "imageregistry_request_duration_seconds" Summary ["operation"]
        "Request latency summary in seconds for each operation.";
    STORAGE_DURATION = "imageregistry_storage_duration_seconds" Summary ["operation"]
        "Latency summary in seconds for each storage operation.";
    STORAGE_ERRORS = "imageregistry_storage_errors_total" Counter ["code", "operation"]
        "Cumulative number of storage operation errors.";
    DIGEST_CACHE = "imageregistry_digest_cache_requests_total" Counter ["type"]
        "Total number of requests without scope to the digest cache.";
    DIGEST_CACHE_SCOPED = "imageregistry_digest_cache_scoped_requests_total" Counter ["type"]
        "Total number of scoped requests to the digest cache.";
    PULLTHROUGH_CACHE = "imageregistry_pullthrough_blobstore_cache_requests_total" Counter ["type"]
        "Total number of requests to the pullthrough blobstore cache.";
    PULLTHROUGH_DURATION = "imageregistry_pullthrough_repository_duration_seconds" Summary ["operation", "registry"]
        "Latency of operations with remote registries in seconds.";
    PULLTHROUGH_ERRORS = "imageregistry_pullthrough_repository_errors_total" Counter ["code", "operation", "registry"]
        "Cumulative number of failed operations with remote registries.";
}

#[derive(Default)]
struct Summary {
    sum: f64,
    count: u64,
    recent: VecDeque<(Instant, f64)>,
}

impl Summary {
    fn observe(&mut self, value: f64, now: Instant) {
        self.sum += value;
        self.count += 1;
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back((now, value));
    }

    fn quantiles(&self, now: Instant) -> [f64; 3] {
        let fresh = self.recent.iter().filter(|(at, _)| now.duration_since(*at) <= WINDOW);
        let mut values: Vec<f64> = fresh.map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        QUANTILES.map(|(_, quantile)| {
            let rank = (quantile * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        })
    }
}

enum Series {
    Counter(u64),
    Summary(Summary),
}

type Values = BTreeMap<Vec<String>, Series>;

/// All metrics of one registry.
#[derive(Default)]
pub struct Metrics {
    in_flight: AtomicI64,
    families: Mutex<BTreeMap<&'static str, (&'static Family, Values)>>,
}

/// Whether a cache knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// It did.
    Hit,
    /// It did not.
    Miss,
}

/// Counts a request as in flight for as long as it lives.
pub struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// A request is being served until the guard is dropped.
    pub fn in_flight(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self)
    }

    /// A request was answered.
    pub fn request(&self, method: &str, status: u16, took: Duration, request_bytes: u64, response_bytes: u64) {
        let method = method.to_ascii_lowercase();
        self.count(&REQUESTS, &[&status.to_string(), &method], 1);
        self.observe(&REQUEST_DURATION, &[&method], took.as_secs_f64());
        self.observe(&REQUEST_SIZE, &[], request_bytes as f64);
        self.observe(&RESPONSE_SIZE, &[], response_bytes as f64);
    }

    /// An operation of the distribution engine's interfaces, such as `BlobStore.Stat`, is over.
    pub fn operation(&self, operation: &'static str, took: Duration) {
        self.observe(&OPERATION_DURATION, &[operation], took.as_secs_f64());
    }

    /// A storage call is over.
    pub fn storage_call(&self, operation: &'static str, took: Duration, error: Option<&'static str>) {
        self.observe(&STORAGE_DURATION, &[operation], took.as_secs_f64());
        if let Some(code) = error {
            self.count(&STORAGE_ERRORS, &[code, operation], 1);
        }
    }

    /// The digest cache was asked without naming a repository.
    pub fn digest_cache(&self, lookup: Lookup) {
        self.lookup(&DIGEST_CACHE, lookup);
    }

    /// The digest cache was asked for one repository.
    pub fn digest_cache_scoped(&self, lookup: Lookup) {
        self.lookup(&DIGEST_CACHE_SCOPED, lookup);
    }

    /// It was looked up which remote has a blob.
    pub fn pullthrough_cache(&self, lookup: Lookup) {
        self.lookup(&PULLTHROUGH_CACHE, lookup);
    }

    /// A call to a remote registry is over.
    pub fn pullthrough(&self, registry: &str, operation: &str, took: Duration, error: Option<&str>) {
        self.observe(&PULLTHROUGH_DURATION, &[operation, registry], took.as_secs_f64());
        if let Some(code) = error {
            self.count(&PULLTHROUGH_ERRORS, &[code, operation, registry], 1);
        }
    }

    fn lookup(&self, family: &'static Family, lookup: Lookup) {
        // Both series appear together, the other one with zero.
        self.count(family, &["Hit"], u64::from(lookup == Lookup::Hit));
        self.count(family, &["Miss"], u64::from(lookup == Lookup::Miss));
    }

    fn count(&self, family: &'static Family, labels: &[&str], by: u64) {
        self.with(family, labels, |series| {
            if let Series::Counter(value) = series {
                *value += by;
            }
        });
    }

    fn observe(&self, family: &'static Family, labels: &[&str], value: f64) {
        self.with(family, labels, |series| {
            if let Series::Summary(summary) = series {
                summary.observe(value, Instant::now());
            }
        });
    }

    fn with(&self, family: &'static Family, labels: &[&str], change: impl FnOnce(&mut Series)) {
        let mut families = self.families.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (_, values) = families.entry(family.name).or_insert_with(|| (family, Values::new()));
        let key = labels.iter().map(|label| (*label).to_owned()).collect();
        change(values.entry(key).or_insert_with(|| match family.kind {
            Type::Counter => Series::Counter(0),
            Type::Summary => Series::Summary(Summary::default()),
        }));
    }

    /// Everything in the Prometheus text format 0.0.4.
    pub fn text(&self) -> String {
        let mut blocks = BTreeMap::from([
            ("imageregistry_build_info", build_info()),
            (
                "imageregistry_http_in_flight_requests",
                format!(
                    "# HELP imageregistry_http_in_flight_requests A gauge of requests currently being served by the registry.\n\
                     # TYPE imageregistry_http_in_flight_requests gauge\n\
                     imageregistry_http_in_flight_requests {}\n",
                    self.in_flight.load(Ordering::Relaxed)
                ),
            ),
        ]);
        let now = Instant::now();
        let families = self.families.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (name, (family, values)) in families.iter() {
            blocks.insert(name, family.text(values, now));
        }
        drop(families);
        blocks.extend(process());
        blocks.into_values().collect()
    }
}

impl Family {
    fn text(&self, values: &Values, now: Instant) -> String {
        let Self { name, help, labels, .. } = self;
        let kind = match self.kind {
            Type::Counter => "counter",
            Type::Summary => "summary",
        };
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (key, series) in values {
            let pairs: Vec<(&str, &str)> = labels.iter().copied().zip(key.iter().map(String::as_str)).collect();
            let _ = match series {
                Series::Counter(value) => writeln!(text, "{name}{} {value}", braces(&pairs)),
                Series::Summary(summary) => {
                    for ((quantile, _), value) in QUANTILES.iter().zip(summary.quantiles(now)) {
                        let mut pairs = pairs.clone();
                        pairs.push(("quantile", quantile));
                        let _ = writeln!(text, "{name}{} {value}", braces(&pairs));
                    }
                    let braces = braces(&pairs);
                    writeln!(text, "{name}_sum{braces} {}\n{name}_count{braces} {}", summary.sum, summary.count)
                }
            };
        }
        text
    }
}

fn braces(pairs: &[(&str, &str)]) -> String {
    if pairs.is_empty() {
        return String::new();
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", labels.join(","))
}

fn build_info() -> String {
    let labels = [
        ("gitCommit", option_env!("REGISTRY_GIT_COMMIT").unwrap_or_default()),
        ("gitVersion", concat!("v", env!("CARGO_PKG_VERSION"))),
        ("major", env!("CARGO_PKG_VERSION_MAJOR")),
        ("minor", env!("CARGO_PKG_VERSION_MINOR")),
    ];
    format!(
        "# HELP imageregistry_build_info A metric with a constant '1' value labeled by major, minor, git commit & git \
         version from which the image registry was built.\n\
         # TYPE imageregistry_build_info gauge\nimageregistry_build_info{} 1\n",
        braces(&labels)
    )
}

/// What Linux says about this process; nothing elsewhere.
fn process() -> Vec<(&'static str, String)> {
    let gauge = |name: &'static str, help: &str, value: Option<u64>| {
        value.map(|value| (name, format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")))
    };
    let kib = |field: &str| {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    [
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", kib("VmRSS:")),
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", kib("VmSize:")),
        gauge(
            "process_open_fds",
            "Number of open file descriptors.",
            std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_info_is_there_from_the_start_and_has_its_labels() {
        let text = Metrics::default().text();
        let line = text.lines().find(|line| line.starts_with("imageregistry_build_info{")).unwrap();
        for label in ["major=", "minor=", "gitCommit=", "gitVersion="] {
            assert!(line.contains(label), "{line}");
        }
        assert!(line.ends_with(" 1"), "{line}");
        assert!(!text.contains("imageregistry_http_requests_total"));
    }

    #[test]
    fn durations_are_summaries_with_three_quantiles() {
        let metrics = Metrics::default();
        for milliseconds in 1..=100 {
            metrics.request("GET", 200, Duration::from_millis(milliseconds), 0, 2);
        }
        let text = metrics.text();
        for line in [
            "# TYPE imageregistry_http_request_duration_seconds summary",
            "imageregistry_http_request_duration_seconds{method=\"get\",quantile=\"0.5\"} 0.05",
            "imageregistry_http_request_duration_seconds{method=\"get\",quantile=\"0.9\"} 0.09",
            "imageregistry_http_request_duration_seconds{method=\"get\",quantile=\"0.99\"} 0.099",
            "imageregistry_http_request_duration_seconds_count{method=\"get\"} 100",
            "imageregistry_http_requests_total{code=\"200\",method=\"get\"} 100",
            "imageregistry_http_response_size_bytes_sum 200",
        ] {
            assert!(text.lines().any(|seen| seen == line), "no {line} in\n{text}");
        }
    }

    #[test]
    fn both_cache_series_appear_with_the_first_lookup() {
        let metrics = Metrics::default();
        metrics.digest_cache_scoped(Lookup::Miss);
        let text = metrics.text();
        assert!(text.contains("imageregistry_digest_cache_scoped_requests_total{type=\"Hit\"} 0"));
        assert!(text.contains("imageregistry_digest_cache_scoped_requests_total{type=\"Miss\"} 1"));
        assert!(!text.contains("imageregistry_digest_cache_requests_total"));
    }

    #[test]
    fn requests_in_flight_go_up_and_down() {
        let metrics = Metrics::default();
        let guard = metrics.in_flight();
        assert!(metrics.text().contains("imageregistry_http_in_flight_requests 1"));
        drop(guard);
        assert!(metrics.text().contains("imageregistry_http_in_flight_requests 0"));
    }
}

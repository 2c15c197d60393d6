//! Faults as data: files that make a good system bad at one seam, and an HTTP(S) proxy that applies them while it runs.
//! It knows HTTP, JSON and the shape of Kubernetes lists and watch streams, but nothing of registries or of who is judged.
//!
//! A fault file in full:
//!
//! ```yaml
//! id: blind-to-replicas
//! title: the operator does not see how many replicas are asked for
//! seam: operator-api
//! requirements: [OPR-PARAM-REPLICAS]
//! rules:
//!   - match:
//!       methods: [GET]
//!       path: ^/apis/imageregistry\.operator\.openshift\.io/v1/configs
//!     act:
//!       response:
//!         patch: [{op: remove, path: /spec/replicas}]
//! ```

mod armed;
mod body;
mod edit;
mod exchange;
mod fault;
mod file_view;
mod pattern;
mod proxy;
mod swallow;
mod upstream;
mod watch_stream;

pub use armed::Hit;
pub use edit::{Edit, Replace, Where};
pub use fault::{Act, Fault, FaultError, FileEdit, Match, Respond, Rule, Seam, TableRemoval};
pub use file_view::FileView;
pub use pattern::{Glob, Pattern, Span};
pub use proxy::{FaultProxy, HostHeader, ProxyError, ProxyOptions};
pub use upstream::{Address, Resolve, Upstream};

//! The leader lease: at most one operator process acts at a time.
//! Whether a lease may be taken is a pure decision; the rest keeps it alive and gives it back.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::{Error, is_code};

/// Name of the lock (operator source cmd/cluster-image-registry-operator/main.go:128, main).
pub const LEASE_NAME: &str = api::names::OPERATOR_LEASE;
/// How long a lease outlives its last renewal. A crashed operator keeps the next one waiting for at most this long;
/// the original waits up to 137 s, which is a choice of its deployment and not a promise of the documents.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
const RENEW_EVERY: Duration = Duration::from_secs(4);
const RENEW_WITHIN: Duration = Duration::from_secs(11);
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// A lease held by this process. Dropping it does not give it back, [`Leadership::release`] does.
#[derive(Debug)]
pub struct Leadership {
    api: Api<Lease>,
    identity: String,
}

/// What to do about a lease as it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Free, expired or ours: write our name into it.
    Take,
    /// Somebody else's; look again when this much time passed without a change.
    Wait(Duration),
}

/// `unchanged` is how long the lease has been seen without a change; remote clocks are not trusted.
fn claim(lease: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> Claim {
    let Some(spec) = lease else { return Claim::Take };
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() || holder == identity {
        return Claim::Take;
    }
    let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
    let duration = seconds.map_or(LEASE_DURATION, Duration::from_secs);
    match duration.checked_sub(unchanged) {
        None | Some(Duration::ZERO) => Claim::Take,
        Some(left) => Claim::Wait(left),
    }
}

fn spec_for(identity: &str, before: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    let same = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(identity));
    let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: if same { before.and_then(|spec| spec.acquire_time.clone()) } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(if same || before.is_none() { transitions } else { transitions + 1 }),
        ..LeaseSpec::default()
    }
}

impl Leadership {
    /// Waits until the lease is ours; `None` when `stop` came first. Errors of the API server are outlasted.
    pub async fn acquire(client: Client, namespace: &str, identity: String, stop: &CancellationToken) -> Option<Self> {
        let this = Self { api: Api::namespaced(client, namespace), identity };
        let selector = watcher::Config::default().fields(&format!("metadata.name={LEASE_NAME}"));
        let mut events = watcher(this.api.clone(), selector).default_backoff().boxed();
        let mut seen: Option<Lease> = None;
        let mut listed = false;
        let mut changed = Instant::now();
        loop {
            let pause = match listed
                .then(|| claim(seen.as_ref().and_then(|l| l.spec.as_ref()), &this.identity, changed.elapsed()))
            {
                Some(Claim::Take) => match this.write(seen.as_ref()).await {
                    Ok(()) => {
                        info!(identity = this.identity, "became leader, holding lease {LEASE_NAME}");
                        return Some(this);
                    }
                    Err(error) => {
                        warn!(%error, "could not take lease {LEASE_NAME}, waiting for its next change");
                        Duration::from_secs(1)
                    }
                },
                Some(Claim::Wait(left)) => {
                    let holder = seen.as_ref().and_then(|l| l.spec.as_ref()).and_then(|s| s.holder_identity.clone());
                    info!(holder, left_ms = left.as_millis(), "another operator holds lease {LEASE_NAME}, waiting");
                    left
                }
                None => Duration::from_secs(3600),
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
                event = events.next() => match event {
                    Some(Ok(watcher::Event::Apply(lease) | watcher::Event::InitApply(lease))) => {
                        (seen, changed) = (Some(lease), Instant::now());
                    }
                    Some(Ok(watcher::Event::Delete(_))) => seen = None,
                    Some(Ok(watcher::Event::Init)) => seen = None,
                    Some(Ok(watcher::Event::InitDone)) => listed = true,
                    Some(Err(error)) => warn!(%error, "cannot watch lease {LEASE_NAME}, trying again"),
                    None => return None,
                }
            }
        }
    }

    /// Renews until `stop` (then `Ok`), or until the lease is lost, which must end the process.
    pub async fn keep(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // A lease has to be renewed by the clock; there is nothing to observe.
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            let failure = match timeout(CALL_LIMIT, self.renew()).await {
                Ok(Ok(())) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Err(Renewal::Taken(by))) => return Err(self.lost(format!("it is now held by {by}"))),
                Ok(Err(Renewal::Failed(error))) => error.to_string(),
                Err(_) => format!("no answer within {} s", CALL_LIMIT.as_secs()),
            };
            warn!(%failure, "could not renew lease {LEASE_NAME}");
            if renewed.elapsed() > RENEW_WITHIN {
                return Err(self.lost(format!("not renewed for {} s, last: {failure}", renewed.elapsed().as_secs())));
            }
        }
    }

    /// Gives the lease back so that the next start need not wait; failing to is logged and harmless.
    pub async fn release(self) {
        let release = async {
            let mut lease = self.api.get(LEASE_NAME).await?;
            if let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(&self.identity)) {
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(Duration::from_millis(700), release).await {
            Ok(Ok(())) => info!("released lease {LEASE_NAME}"),
            Ok(Err(error)) => warn!(%error, "could not release lease {LEASE_NAME}; the next start waits for it"),
            Err(_) => warn!("releasing lease {LEASE_NAME} took too long; the next start waits for it"),
        }
    }

    async fn write(&self, seen: Option<&Lease>) -> Result<(), kube::Error> {
        let mut lease = seen.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(LEASE_NAME.to_owned()), ..ObjectMeta::default() },
            spec: None,
        });
        lease.spec = Some(spec_for(&self.identity, lease.spec.as_ref()));
        let call = async {
            match seen {
                Some(_) => self.api.replace(LEASE_NAME, &PostParams::default(), &lease).await,
                None => self.api.create(&PostParams::default(), &lease).await,
            }
        };
        call.await.map(|_| ())
    }

    async fn renew(&self) -> Result<(), Renewal> {
        let current = match self.api.get(LEASE_NAME).await {
            Ok(lease) => Some(lease),
            Err(error) if is_code(&error, 404) => None,
            Err(error) => return Err(Renewal::Failed(error)),
        };
        let holder = current.as_ref().and_then(|l| l.spec.as_ref()).and_then(|s| s.holder_identity.clone());
        if let Some(other) = holder.filter(|holder| !holder.is_empty() && *holder != self.identity) {
            return Err(Renewal::Taken(other));
        }
        self.write(current.as_ref()).await.map_err(Renewal::Failed)
    }

    fn lost(&self, reason: String) -> Error {
        Error::LeaseLost { name: LEASE_NAME.to_owned(), reason }
    }
}

enum Renewal {
    Taken(String),
    Failed(kube::Error),
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn held(by: &str, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(by.into()),
            lease_duration_seconds: Some(seconds),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        }
    }

    #[rstest]
    #[case::absent(None, 0, Claim::Take)]
    #[case::released(Some(held("", 1)), 0, Claim::Take)]
    #[case::our_own(Some(held("me", 15)), 0, Claim::Take)]
    #[case::fresh(Some(held("other", 15)), 5, Claim::Wait(Duration::from_secs(10)))]
    #[case::expired(Some(held("other", 15)), 15, Claim::Take)]
    #[case::foreign_duration(Some(held("other", 137)), 100, Claim::Wait(Duration::from_secs(37)))]
    fn a_lease_is_taken_only_when_free(#[case] lease: Option<LeaseSpec>, #[case] unchanged: u64, #[case] want: Claim) {
        assert_eq!(claim(lease.as_ref(), "me", Duration::from_secs(unchanged)), want);
    }

    #[rstest]
    #[case::first(None, 0)]
    #[case::renewal(Some(held("me", 15)), 4)]
    #[case::taken_over(Some(held("other", 15)), 5)]
    fn transitions_count_changes_of_holder(#[case] before: Option<LeaseSpec>, #[case] want: i32) {
        assert_eq!(spec_for("me", before.as_ref()).lease_transitions, Some(want));
    }
}

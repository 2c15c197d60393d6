//! Whose turn it is: a lease that lets one node at a time be drained, so that its pods have somewhere to go.
//! A node that dies with the turn loses it when the lease runs out; its agent, restarted, has it at once.

use api::names;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use std::time::Duration;

const LEASE: &str = "machine-config-drain";

pub(super) struct Turn {
    leases: Api<Lease>,
    node: String,
}

impl Turn {
    /// How long a holder that no longer speaks keeps the others waiting.
    pub(super) const LASTS: Duration = Duration::from_secs(30);

    pub(super) fn new(client: Client, node: &str) -> Self {
        Turn { leases: Api::namespaced(client, names::MACHINE_CONFIG_NAMESPACE), node: node.to_owned() }
    }

    /// Returns when it is this node's turn, and prolongs a turn that it has; call it again before [`Turn::LASTS`] is over.
    ///
    /// # Errors
    /// The lease could not be read or written.
    pub(super) async fn take(&self) -> Result<(), kube::Error> {
        loop {
            let now = Timestamp::now();
            let present = self.leases.get_opt(LEASE).await?;
            let left = present.as_ref().map_or(Duration::ZERO, |lease| self.others(lease, now));
            if left.is_zero() {
                match self.write(present, Some(&self.node), now).await {
                    Err(kube::Error::Api(status)) if status.code == 409 => continue,
                    written => return written,
                }
            }
            tracing::info!(at_most_s = left.as_secs(), "another node is being drained; this one waits for its turn");
            let free = await_condition(self.leases.clone(), LEASE, |lease: Option<&Lease>| {
                lease.is_none_or(|lease| self.others(lease, Timestamp::now()).is_zero())
            });
            // That the watch failed or the time ran out is the same: the lease is looked at again.
            let _ = tokio::time::timeout(left, free).await;
        }
    }

    /// Lets the next node have its turn; nothing happens if this one has none.
    ///
    /// # Errors
    /// The lease could not be read or written.
    pub(super) async fn give_back(&self) -> Result<(), kube::Error> {
        let Some(lease) = self.leases.get_opt(LEASE).await? else { return Ok(()) };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(&self.node) {
            return Ok(());
        }
        match self.write(Some(lease), None, Timestamp::now()).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            written => written,
        }
    }

    /// How long somebody else still has the turn.
    fn others(&self, lease: &Lease, now: Timestamp) -> Duration {
        let Some(spec) = &lease.spec else { return Duration::ZERO };
        match spec.holder_identity.as_deref() {
            None | Some("") => return Duration::ZERO,
            Some(holder) if holder == self.node => return Duration::ZERO,
            Some(_) => {}
        }
        let renewed = spec.renew_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let lasts = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into());
        Duration::try_from(renewed.duration_until(now).checked_neg().unwrap_or_default().saturating_add(lasts))
            .unwrap_or_default()
    }

    async fn write(&self, present: Option<Lease>, holder: Option<&str>, now: Timestamp) -> Result<(), kube::Error> {
        let version = present.as_ref().and_then(ResourceExt::resource_version);
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.into()),
                resource_version: version.clone(),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.unwrap_or_default().to_owned()),
                lease_duration_seconds: i32::try_from(Self::LASTS.as_secs()).ok(),
                renew_time: Some(MicroTime(now)),
                ..LeaseSpec::default()
            }),
        };
        match version {
            Some(_) => self.leases.replace(LEASE, &PostParams::default(), &lease).await.map(drop),
            None => self.leases.create(&PostParams::default(), &lease).await.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::nobodys(Some(""), 0, 0)]
    #[case::none(None, 0, 0)]
    #[case::own(Some("node-0"), 0, 0)]
    #[case::others(Some("node-1"), 0, 30)]
    #[case::nearly_over(Some("node-1"), 29, 1)]
    #[case::over(Some("node-1"), 31, 0)]
    #[tokio::test]
    async fn is_over(#[case] holder: Option<&str>, #[case] age: i64, #[case] left: u64) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = kube::Config::new("http://127.0.0.1:1".parse().expect("a URL"));
        let turn = Turn::new(Client::try_from(config).expect("a client"), "node-0");
        let now = Timestamp::now();
        let spec = LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(30),
            renew_time: Some(MicroTime(now - SignedDuration::from_secs(age))),
            ..LeaseSpec::default()
        };
        let lease = Lease { spec: Some(spec), ..Lease::default() };
        assert_eq!(turn.others(&lease, now), Duration::from_secs(left));
    }
}

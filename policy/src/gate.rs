//! A program's policy, and the audit log of what it refuses.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::info;
use tunnel_proto::target::Target;

use crate::{Policy, PolicyError, Subject};

/// Audit lines in each [`WINDOW`]. With fewer, a person who tries a few targets is not seen; with
/// more, a client that is refused in a loop fills the disk.
const LINES: u32 = 20;

const WINDOW: Duration = Duration::from_secs(1);

/// A destination that the policy refuses. As text it is the refusal for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("denied by policy rule {rule:?}: {target}")]
pub struct Denied {
    /// The rule's name.
    pub rule: String,
    /// The target as it was asked for.
    pub target: String,
    /// Its address, if a name's was refused.
    pub address: Option<IpAddr>,
}

/// The policy of a program. Changes apply to dials that begin later.
pub struct Gate {
    policy: ArcSwap<Policy>,
    audited: Mutex<Audited>,
}

/// The audit lines of the current window.
struct Audited {
    began: Instant,
    lines: u32,
    suppressed: u64,
}

impl Gate {
    /// A gate with a policy.
    pub fn new(policy: Policy) -> Arc<Self> {
        let audited = Audited { began: Instant::now(), lines: 0, suppressed: 0 };
        Arc::new(Self { policy: ArcSwap::from_pointee(policy), audited: Mutex::new(audited) })
    }

    /// The gate of `--policy-file`; without a file that of [`Policy::default`].
    ///
    /// # Errors
    /// As [`Policy::read`].
    pub fn of_file(path: Option<&Path>) -> Result<Arc<Self>, PolicyError> {
        Ok(Self::new(path.map(Policy::read).transpose()?.unwrap_or_default()))
    }

    /// Replaces the policy as a whole.
    pub fn replace(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }

    /// Whether a target may be dialled, and at `address` if that is one of a name's addresses.
    ///
    /// # Errors
    /// With the rule that refuses it.
    pub fn check(
        &self,
        subject: Subject<'_>,
        target: &Target,
        address: Option<IpAddr>,
    ) -> Result<(), Denied> {
        let policy = self.policy.load();
        let verdict = policy.decide(subject, target, address);
        if verdict.allow {
            return Ok(());
        }
        Err(Denied { rule: verdict.rule.to_owned(), target: target.to_string(), address })
    }

    /// Writes the audit line of a refusal, unless there were too many in this second. `agent` is
    /// the id of the agent that refuses; a server has chosen none.
    pub fn audit(&self, denied: &Denied, subject: Subject<'_>, agent: Option<&str>) {
        let Some(suppressed) = self.admit(Instant::now()) else { return };
        info!(
            target: "audit",
            target = denied.target,
            address = denied.address.map(tracing::field::display),
            rule = denied.rule,
            identity = subject.identity,
            agent,
            suppressed,
            "dial denied by policy"
        );
    }

    /// Whether a line is written, and how many were not since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        // A panic elsewhere leaves the numbers whole.
        let mut audited = self.audited.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(audited.began) >= WINDOW {
            (audited.began, audited.lines) = (now, 0);
        }
        if audited.lines == LINES {
            audited.suppressed += 1;
            return None;
        }
        audited.lines += 1;
        Some(std::mem::take(&mut audited.suppressed))
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("rules", &self.policy.load().rules()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audit_lines_are_bounded_and_the_next_one_counts_the_rest() {
        let gate = Gate::new(Policy::default());
        let now = Instant::now();
        let admitted = (0..100).filter(|_| gate.admit(now).is_some()).count();
        assert_eq!(admitted, LINES as usize);
        assert_eq!(gate.admit(now + WINDOW), Some(u64::from(100 - LINES)));
        assert_eq!(gate.admit(now + WINDOW), Some(0));
    }

    #[test]
    fn a_replaced_policy_applies_to_the_next_check() {
        let gate = Gate::new(Policy::default());
        let target = "10.0.0.1:80".parse().unwrap();
        assert_eq!(gate.check(Subject::default(), &target, None), Ok(()));
        gate.replace("default: deny".parse().unwrap());
        let denied = gate.check(Subject::default(), &target, None).unwrap_err();
        assert_eq!(denied.to_string(), "denied by policy rule \"default\": 10.0.0.1:80");
    }
}

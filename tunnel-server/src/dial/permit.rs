//! The policy of destinations, for targets as clients name them. Addresses of names are the agent's
//! to check.

use tunnel_policy::Subject;
use tunnel_proto::target::Target;

use super::Dialer;
use super::error::DialError;

impl Dialer {
    /// Refuses a target that the policy denies, with an audit line.
    pub(super) fn permit(&self, target: &Target, client: Subject<'_>) -> Result<(), DialError> {
        self.policy.check(client, target, None).map_err(|denied| {
            self.policy.audit(&denied, client, None);
            self.metrics.denied(&denied.rule);
            DialError::Denied(denied)
        })
    }
}

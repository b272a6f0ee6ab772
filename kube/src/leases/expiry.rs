//! Konnectivity's rule of a Lease's validity.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// The end of a Lease: its duration after its last renewal, or else after its
/// acquisition. `None` without a duration or without either time.
pub(super) fn runs_out(lease: &Lease) -> Option<Timestamp> {
    let spec = lease.spec.as_ref()?;
    let renewed = spec.renew_time.as_ref().or(spec.acquire_time.as_ref())?.0;
    let duration = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
    renewed.checked_add(duration).ok()
}

pub(super) fn is_valid(lease: &Lease, now: Timestamp) -> bool {
    runs_out(lease).is_some_and(|end| end > now)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::*;

    #[test]
    fn a_lease_is_valid_until_its_duration_after_its_last_renewal() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
        let ago = |seconds: i64| Some(MicroTime(now - SignedDuration::from_secs(seconds)));
        let lease = |duration, acquired: Option<MicroTime>, renewed: Option<MicroTime>| Lease {
            spec: Some(LeaseSpec {
                lease_duration_seconds: duration,
                acquire_time: acquired,
                renew_time: renewed,
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        for (what, lease, valid) in [
            ("renewed just now", lease(Some(30), ago(1000), ago(1)), true),
            ("renewed too long ago", lease(Some(30), ago(1), ago(31)), false),
            ("runs out at this moment", lease(Some(30), None, ago(30)), false),
            ("acquired, not renewed yet", lease(Some(30), ago(29), None), true),
            ("acquired too long ago", lease(Some(30), ago(31), None), false),
            ("neither time", lease(Some(30), None, None), false),
            ("no duration", lease(None, ago(1), ago(1)), false),
            ("a duration of nothing", lease(Some(0), None, ago(0)), false),
            ("renewed by a clock ahead of ours", lease(Some(30), None, ago(-3600)), true),
            ("no content", Lease::default(), false),
        ] {
            assert_eq!(is_valid(&lease, now), valid, "{what}");
        }
    }
}

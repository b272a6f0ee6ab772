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

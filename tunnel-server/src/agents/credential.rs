//! The credential that a tunnel was admitted with, for as long as the tunnel stands.
//!
//! A tunnel whose certificate or token has expired, or whose certificate would be refused now, ends
//! with that reason. Its agent is asked for another tunnel first. Time may come back to the credential meanwhile,
//! when a clock that jumped is set right: then the tunnel stays.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};
use tunnel::drain::Drain;
use tunnel::tls::{Listening, Renewed};
use tunnel::transport::Chain;
use tunnel_kube::review::Claims;
use tunnel_operate::certificate;

use super::{AgentTunnel, Registry};
use crate::metrics::Metrics;

/// Longest time between two looks at the tunnels' credentials.
const LOOK: Duration = Duration::from_secs(10);

/// Looks that an agent has to bring up another tunnel in place of one whose credential has lapsed.
/// With fewer, agents behind a load balancer do not reach this server again; with more, such a tunnel
/// stands for more than a minute, the look at the files included.
const GRACE: u32 = 2;

/// The end of a credential that has none.
const NEVER: i64 = i64::MAX;

/// A tunnel's credential.
#[derive(Debug)]
pub(crate) struct Credential {
    /// Empty if the listener asked for none.
    chain: Chain,
    /// When the chain has to be verified again, in seconds since 1970. 0 until it was accepted
    /// once, because the authorities may have changed during the handshake, and while it is not.
    verify: AtomicI64,
    /// When the token expires, in seconds since 1970, if the agent can show another one.
    token: AtomicI64,
    /// Since when it does not admit any more.
    lapsed: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// The agent's own certificate.
    Expired,
    /// The verifier's reason.
    Untrusted(String),
    Token,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired => f.write_str("the agent's certificate has expired"),
            Self::Untrusted(why) => write!(f, "the agent's certificate is not accepted any more: {why}"),
            Self::Token => f.write_str("the agent's token has expired, and the agent has shown no newer one"),
        }
    }
}

impl Why {
    /// The name in metrics.
    const fn label(&self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Untrusted(_) => "untrusted",
            Self::Token => "token_expired",
        }
    }
}

/// The next step with a tunnel.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    /// Ask the agent for another one.
    Ask(Why),
    End(Why),
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// The end of a token, in seconds since 1970.
pub(super) fn end_of(token: &str) -> i64 {
    let now = SystemTime::now();
    let lasts = Claims::read(token).ok().and_then(|claims| claims.lasts(now));
    lasts.map_or(NEVER, |lasts| now.checked_add(lasts).map_or(NEVER, seconds))
}

impl Credential {
    /// `token` is the end of the agent's token, if the agent can show another one.
    pub(super) fn new(chain: Chain, token: Option<i64>) -> Self {
        let (verify, token) = (AtomicI64::new(0), AtomicI64::new(token.unwrap_or(NEVER)));
        Self { chain, verify, token, lapsed: Mutex::default() }
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The agent has shown another token, which ends then.
    pub(super) fn extend(&self, end: i64) {
        self.token.store(end, Ordering::Relaxed);
    }

    /// Judges the credential; one that has lapsed ends after `grace`. `renewed` says that the authorities may have
    /// changed since the last call.
    fn step(&self, tls: &Listening, renewed: bool, now: i64, grace: Duration) -> Step {
        let mut lapsed = self.lapsed.lock().unwrap_or_else(PoisonError::into_inner);
        let why = if now >= self.token.load(Ordering::Relaxed) {
            Some(Why::Token)
        } else if !self.chain.is_empty() && (renewed || now >= self.verify.load(Ordering::Relaxed)) {
            self.verify(tls, now)
        } else {
            None
        };
        let Some(why) = why else {
            *lapsed = None;
            return Step::Keep;
        };
        match &*lapsed {
            Some(since) if since.elapsed() >= grace => Step::End(why),
            Some(_) => Step::Keep,
            None => {
                *lapsed = Some(Instant::now());
                Step::Ask(why)
            }
        }
    }

    fn verify(&self, tls: &Listening, now: i64) -> Option<Why> {
        let ends = || self.chain.iter().filter_map(|der| certificate::ends(der));
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.max(0).cast_unsigned()));
        match tls.check(&self.chain, at) {
            Ok(()) => {
                // A certificate is valid in the second of its end too.
                let next = ends().filter(|end| *end >= now).min().unwrap_or(NEVER);
                self.verify.store(next, Ordering::Relaxed);
                None
            }
            Err(why) => {
                self.verify.store(0, Ordering::Relaxed);
                let has_expired = ends().next().is_some_and(|end| end <= now);
                Some(if has_expired { Why::Expired } else { Why::Untrusted(why) })
            }
        }
    }
}

impl Registry {
    /// Ends tunnels whose credential has lapsed, until the drain is killed.
    pub(crate) async fn end_lapsed(
        self,
        tls: Renewed<Listening>,
        period: Duration,
        metrics: Metrics,
        drain: Drain,
    ) {
        let mut renewals = tls.changes();
        let (period, grace) = (period.min(LOOK), period.min(LOOK) * GRACE);
        let mut looks = interval(period);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let renewed = tokio::select! {
                biased;
                () = drain.killed() => return,
                // Never closed: `tls` is the other end.
                Ok(()) = renewals.changed() => true,
                _ = looks.tick() => false,
            };
            let (registry, tls, metrics) = (self.clone(), tls.get(), metrics.clone());
            // Ten thousand verifications take a second of a core.
            let look = tokio::task::spawn_blocking(move || {
                for agent in registry.tunnels() {
                    agent.look(&tls, renewed, grace, &metrics);
                }
            });
            if let Err(error) = look.await {
                warn!(%error, "tunnels whose credential has lapsed were not looked for");
            }
        }
    }
}

impl AgentTunnel {
    fn look(&self, tls: &Listening, renewed: bool, grace: Duration, metrics: &Metrics) {
        let Some(connected) = &self.connected else { return };
        let (agent, link) = (&self.id, connected.tunnel.link().label());
        match self.credential.step(tls, renewed, seconds(SystemTime::now()), grace) {
            Step::Keep => {}
            Step::Ask(why) => {
                warn!(agent, link, %why, streams = self.streams(), "the tunnel ends soon");
                connected.peer.ask_to_renew(&why.to_string());
            }
            Step::End(why) => {
                info!(agent, link, %why, "the tunnel ends");
                metrics.tunnel_lapsed(why.label());
                let why = why.to_string();
                self.set_ended(&why);
                connected.tunnel.close(&why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use tunnel::tls::{Identity, Offer};

    use super::*;

    fn listening() -> Listening {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let key = key.serialize_der().try_into().unwrap();
        Listening::for_agents(&Identity::new(certificate.der().clone(), key), None, &Offer::default())
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_without_a_successor_ends_its_tunnel_after_the_grace() {
        let (tls, credential) = (listening(), Credential::new(Arc::new([]), Some(100)));
        let step = |now| credential.step(&tls, false, now, LOOK);
        assert_eq!(step(99), Step::Keep);
        assert_eq!(step(100), Step::Ask(Why::Token));
        assert_eq!(step(110), Step::Keep);
        tokio::time::advance(LOOK).await;
        assert_eq!(step(120), Step::End(Why::Token));
        credential.extend(200);
        assert_eq!(step(120), Step::Keep);
        assert_eq!(step(200), Step::Ask(Why::Token), "the grace begins anew");
    }

    /// A listener, and the chain of an agent that it admits from 1000 to 2000.
    fn admitted() -> (Listening, Chain) {
        let issuer_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        let root = authority.self_signed(&issuer_key).unwrap();
        roots.add(root.der().clone()).unwrap();
        let (key, mut params) = (rcgen::KeyPair::generate().unwrap(), rcgen::CertificateParams::default());
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let time = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
        (params.not_before, params.not_after) = (time(1000), time(2000));
        let own = params.signed_by(&key, &rcgen::Issuer::new(authority, issuer_key)).unwrap().der().clone();
        let identity = Identity::new(own.clone(), key.serialize_der().try_into().unwrap());
        let trusted = Arc::new(roots).into();
        let listening = Listening::for_agents(&identity, Some(&trusted), &Offer::default()).unwrap();
        (listening, Arc::new([own]))
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_and_is_set_right_within_the_grace_ends_no_tunnel() {
        let (tls, chain) = admitted();
        let credential = Credential::new(chain, None);
        let step = |now| credential.step(&tls, false, now, LOOK);
        assert_eq!(step(1500), Step::Keep);
        assert_eq!(step(5000), Step::Ask(Why::Expired));
        assert_eq!(step(1510), Step::Keep);
        tokio::time::advance(2 * LOOK).await;
        assert_eq!(step(1520), Step::Keep, "the certificate is valid");
        assert_eq!(step(2001), Step::Ask(Why::Expired), "the grace begins anew");
        tokio::time::advance(LOOK).await;
        assert_eq!(step(2011), Step::End(Why::Expired));
    }

    #[test]
    fn a_credential_without_an_end_stays() {
        let credential = Credential::new(Arc::new([]), None);
        assert_eq!(credential.step(&listening(), true, NEVER - 1, LOOK), Step::Keep);
        assert_eq!(end_of("no token"), NEVER);
    }
}

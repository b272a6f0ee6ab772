//! Credentials of tunnels: the agent's certificate and token, and the server's certificate.
//!
//! A tunnel that was made with a certificate near its end, after a newer one was read, gets a
//! successor, and so does one whose server would not be accepted now, or that the server is about to
//! end. Streams stay on the old tunnel until its credential ends, and longer if a clock that jumped is set
//! right before that.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use tokio::time::Instant;
use tracing::{info, warn};
use tunnel::tls::Dialling;
use tunnel_operate::certificate;

use super::Keeper;
use crate::connect::MadeWith;

/// Longest time between two looks at the credentials.
const LOOK: Duration = Duration::from_secs(10);

/// Looks from the lapse of a credential to the tunnel's end. With fewer, no successor is found behind
/// a load balancer; with more, a withdrawn authority is trusted for more than a minute.
const GRACE: u32 = 2;

/// The time between two looks, of a period of the files.
pub(super) fn look_every(period: Duration) -> Duration {
    period.min(LOOK)
}

/// Part of a certificate's validity that is left when a renewed one takes its place. Smaller, and
/// the successors of a fleet come within minutes; larger, and tunnels are replaced for nothing.
const LEFT: f64 = 0.1;

/// The credentials of one tunnel.
#[derive(Debug)]
pub(super) struct Credentials {
    made_with: MadeWith,
    /// The end of the agent's own certificate, and the time from which a newer one replaces it,
    /// in seconds since 1970.
    own: Option<(i64, i64)>,
    /// When the server's certificate has to be verified again. 0 until it was accepted once, and while it is not.
    verify: i64,
    lapsed: Option<(Instant, String)>,
}

/// The next step with a tunnel.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Keep,
    Replace,
    End(String),
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

impl Credentials {
    /// `random` is from 0 up to 1, and spreads the successors of a fleet.
    pub(super) fn new(made_with: MadeWith, random: f64) -> Self {
        let own = made_with.own.as_ref().and_then(|own| certificate::validity(own)).map(|validity| {
            let (begin, end) = validity.into_inner();
            let left = end.saturating_sub(begin).max(0) as f64 * LEFT * (0.5 + random / 2.0);
            (end, end.saturating_sub(left as i64))
        });
        Self { made_with, own, verify: 0, lapsed: None }
    }

    /// The name that the server's certificate is for.
    pub(super) const fn server(&self) -> &Arc<str> {
        &self.made_with.name
    }

    /// Whether to show a token: the server knows another one.
    pub(super) fn show(&mut self, token: &str) -> bool {
        let is_new = !token.is_empty() && self.made_with.token != token;
        if is_new {
            token.clone_into(&mut self.made_with.token);
        }
        is_new
    }

    /// `renewed` says that the files may have changed since the last call.
    fn step(&mut self, tls: &Dialling, renewed: bool, now: i64, grace: Duration) -> Step {
        let has_ended = self.own.is_some_and(|(end, _)| end <= now);
        // Servers of ours end such a tunnel first, and name the reason.
        let grace = if has_ended { 2 * grace } else { grace };
        let why = if has_ended {
            Some("the agent's certificate has expired".to_owned())
        } else if renewed || self.verify <= now {
            self.verify(tls, now).err()
        } else {
            None
        };
        if let Some(why) = why {
            let (since, why) = self.lapsed.get_or_insert((Instant::now(), why));
            return match since.elapsed() >= grace {
                true => Step::End(why.clone()),
                false => Step::Replace,
            };
        }
        self.lapsed = None;
        match self.own {
            Some((_, from)) if from <= now && self.made_with.own != tls.own => Step::Replace,
            Some(_) | None => Step::Keep,
        }
    }

    fn verify(&mut self, tls: &Dialling, now: i64) -> Result<(), String> {
        let MadeWith { chain, name, .. } = &self.made_with;
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now.max(0).cast_unsigned()));
        self.verify = 0;
        tls.check(chain, name, at)
            .map_err(|why| format!("the server's certificate is not accepted any more: {why}"))?;
        let ends = chain.iter().filter_map(|der| certificate::ends(der));
        // A certificate is valid in the second of its end too.
        self.verify = ends.filter(|end| *end >= now).min().unwrap_or(i64::MAX);
        Ok(())
    }
}

impl Keeper {
    /// Looks at the credentials of all tunnels.
    pub(super) fn look(&mut self, renewed: bool) {
        let (tls, now, grace) = (self.config.tls.get(), now(), look_every(self.config.renewal) * GRACE);
        for (serial, session) in &mut self.running {
            match session.credentials.step(&tls, renewed, now, grace) {
                Step::Keep => {}
                Step::Replace => {
                    if let Some(id) = self.plan.replace(*serial, Instant::now()) {
                        info!(id, "looking for another tunnel to this server, with the credentials of now");
                    }
                }
                Step::End(why) => {
                    warn!(why, "the tunnel ends");
                    session.close(&why);
                }
            }
        }
    }

    /// Shows a renewed token to all servers.
    pub(super) fn show_token(&mut self) {
        let token = Arc::clone(&self.tokens.borrow_and_update());
        for session in self.running.values_mut() {
            session.show(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::RootCertStore;
    use rustls::pki_types::CertificateDer;
    use tunnel::tls::Identity;

    use super::*;

    /// Certificates from 1000 to these ends, of the agent and the server, and the agent's TLS.
    fn credentials(own_end: u64, server_end: u64) -> (Credentials, Dialling) {
        let issuer_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::default();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        roots.add(authority.self_signed(&issuer_key).unwrap().der().clone()).unwrap();
        let issuer = rcgen::Issuer::new(authority, issuer_key);
        let signed = |end: u64| -> (CertificateDer<'static>, rcgen::KeyPair) {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(["server".to_owned()]).unwrap();
            let time = |seconds| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
            (params.not_before, params.not_after) = (time(1000), time(end));
            (params.signed_by(&key, &issuer).unwrap().der().clone(), key)
        };
        let ((own, key), (server, _)) = (signed(own_end), signed(server_end));
        let identity = Identity::new(own.clone(), key.serialize_der().try_into().unwrap());
        let tls = Dialling::new(Some(&identity), &Arc::new(roots).into()).unwrap();
        let made_with = MadeWith {
            own: Some(Arc::new(own)),
            token: String::new(),
            chain: Arc::new([server]),
            name: "server".into(),
        };
        (Credentials::new(made_with, 0.5), tls)
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_jumps_and_is_set_right_within_the_grace_ends_no_tunnel() {
        for (own_end, server_end) in [(2000, 9000), (9000, 2000)] {
            let (mut credentials, tls) = credentials(own_end, server_end);
            let mut step = |now| credentials.step(&tls, false, now, LOOK);
            assert_eq!(step(1500), Step::Keep);
            assert_eq!(step(3000), Step::Replace);
            assert_eq!(step(1510), Step::Keep);
            tokio::time::advance(4 * LOOK).await;
            assert_eq!(step(1520), Step::Keep, "the certificates are valid");
            assert_eq!(step(3000), Step::Replace, "the grace begins anew");
            tokio::time::advance(2 * LOOK).await;
            assert!(matches!(step(3020), Step::End(_)));
        }
    }
}

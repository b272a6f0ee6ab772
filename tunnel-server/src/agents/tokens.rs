//! Tokens that an agent shows on its tunnel, in place of the one that it came with.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};
use tunnel::liveness::{Health, Liveness};
use tunnel_proto::message::RejectionKind;

use super::credential::end_of;
use super::{AgentTunnel, Sessions};

/// Least time between two reviews of one tunnel's tokens. Shorter, and one agent can use up the
/// reviews of all; longer, and a token that follows a bad one soon counts late.
const PAUSE: Duration = Duration::from_secs(10);

/// A review to come: the token's end in seconds since 1970, or why it is refused.
type Verdict = Pin<Box<dyn Future<Output = Result<i64, String>> + Send>>;

/// The review of the token that an agent has shown last, if it is due or under way. Boxed, because an
/// agent shows a token once in an hour.
#[derive(Default)]
pub(super) struct Review {
    verdict: Option<Verdict>,
    starts: Option<Instant>,
}

impl Review {
    /// When the review of a token that comes now starts.
    fn turn(&mut self) -> Instant {
        let now = Instant::now();
        let turn = match self.starts {
            // In place of the one that has not started.
            Some(starts) if starts > now => starts,
            Some(starts) => now.max(starts + PAUSE),
            None => now,
        };
        self.starts = Some(turn);
        turn
    }

    /// Waits for the verdict: the token's end in seconds since 1970. Cancel safe.
    async fn verdict(&mut self) -> Result<i64, String> {
        let verdict = match &mut self.verdict {
            Some(review) => review.await,
            None => pending().await,
        };
        self.verdict = None;
        verdict
    }
}

impl Sessions {
    /// As [`Liveness::next`], and reviews the tokens that the agent shows meanwhile.
    pub(super) async fn next(
        &self,
        liveness: &mut Liveness,
        agent: &Arc<AgentTunnel>,
        review: &mut Review,
    ) -> Health {
        loop {
            tokio::select! {
                biased;
                health = liveness.next() => match health {
                    // A later token is the better one.
                    Health::Token(token) => {
                        let (sessions, agent, turn) = (self.clone(), Arc::clone(agent), review.turn());
                        review.verdict = Some(Box::pin(async move {
                            sleep_until(turn).await;
                            sessions.review(&agent, token).await
                        }));
                    }
                    Health::Suspect
                    | Health::Back
                    | Health::Draining { .. }
                    | Health::Renew(_)
                    | Health::Dead(_) => return health,
                },
                verdict = review.verdict() => match verdict {
                    Ok(end) => {
                        agent.credential.extend(end);
                        debug!(agent = agent.id, "renewed token accepted");
                    }
                    Err(why) => {
                        warn!(agent = agent.id, why, "the agent's renewed token is refused: the tunnel ends with the one before");
                    }
                },
            }
        }
    }

    /// Reviews a token of the holder of a tunnel, until the API can be asked, and returns its end.
    async fn review(&self, agent: &AgentTunnel, token: String) -> Result<i64, String> {
        let end = end_of(&token);
        let holder = loop {
            match self.authenticator.check(Ok(Some(token.clone()))).await {
                Ok(holder) => break holder,
                // The same token may be good once the API answers.
                Err(error) if error.kind() == RejectionKind::Unavailable => sleep(PAUSE).await,
                Err(error) => return Err(error.to_string()),
            }
        };
        let chain = agent.credential.chain();
        let identity =
            self.trust.identify(holder.as_ref(), chain.first()).map_err(|error| error.to_string())?;
        if identity != agent.identity {
            return Err(format!("the tunnel is of {}, and the token of {identity}", agent.identity));
        }
        Ok(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_tokens_is_reviewed_once_in_a_pause() {
        let (mut review, began) = (Review::default(), Instant::now());
        assert_eq!(review.turn(), began);
        for _ in 0..100 {
            assert_eq!(review.turn(), began + PAUSE);
        }
        tokio::time::advance(3 * PAUSE).await;
        assert_eq!(review.turn(), Instant::now());
    }
}

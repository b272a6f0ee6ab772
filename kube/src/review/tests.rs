//! Reviews by a scripted API, in memory, on a paused clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, advance};
use tunnel_kube_fake::{FakeApi, Holder, Verb, token};

use super::*;
use crate::testing::cluster;

const AUDIENCE: &str = "system:konnectivity-server";
const AGENT: &str = "system:serviceaccount:kube-system:konnectivity-agent";

fn expected() -> Expected {
    Expected {
        audience: AUDIENCE.to_owned(),
        namespace: "kube-system".to_owned(),
        service_account: "konnectivity-agent".to_owned(),
    }
}

fn hour_token(number: usize) -> String {
    token(&number.to_string(), AUDIENCE, Duration::from_secs(3600))
}

fn agent() -> Holder {
    Holder { username: AGENT.to_owned(), audiences: vec![AUDIENCE.to_owned()], ..Holder::default() }
}

fn reviewer(api: &FakeApi, qps: f32, burst: u32) -> TokenReviewer {
    TokenReviewer::new(&cluster(api, qps, burst), expected(), Arc::new(|_| {}))
}

#[tokio::test(start_paused = true)]
async fn a_good_token_has_a_holder() {
    let api = FakeApi::new();
    let extra = |name: &str, values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        (format!("authentication.kubernetes.io/{name}"), values)
    };
    let extras = [extra("node-name", &["worker-7"]), extra("pod-name", &["agent-x"])];
    let ambiguous = [extra("node-name", &["worker-7"]), extra("pod-name", &["a", "b"])];
    api.know(&hour_token(1), Holder { extra: extras.into(), ..agent() });
    api.know(&hour_token(2), Holder { extra: ambiguous.into(), ..agent() });
    let reviewer = reviewer(&api, 0.0, 0);
    for (number, pod_name) in [(1, Some("agent-x".to_owned())), (2, None)] {
        let reviewed = reviewer.review(&hour_token(number)).await.unwrap();
        let node_name = Some("worker-7".to_owned());
        assert_eq!(reviewed, Reviewed { username: AGENT.to_owned(), node_name, pod_name });
    }
}

/// A holder whose token names its pod alone, as before Kubernetes 1.30.
fn of_pod(uid: &str) -> Holder {
    let extra =
        |name: &str, value: &str| (format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
    Holder { extra: [extra("pod-name", "agent-x"), extra("pod-uid", uid)].into(), ..agent() }
}

#[tokio::test(start_paused = true)]
async fn the_node_of_a_token_that_names_none_is_its_pods() {
    let api = FakeApi::new();
    api.know(&hour_token(1), of_pod("uid-1"));
    api.put_pod("kube-system", "agent-x", "uid-1", "worker-7");
    let reviewer = reviewer(&api, 1.0, 1);
    for _ in 0..2 {
        let reviewed = reviewer.review(&hour_token(1)).await.unwrap();
        assert_eq!(reviewed.node_name.as_deref(), Some("worker-7"));
    }
    assert_eq!((api.asked(Verb::Review), api.asked(Verb::GetPod)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_pod_that_is_gone_or_replaced_admits_nobody() {
    let api = FakeApi::new();
    api.know(&hour_token(1), of_pod("uid-1"));
    let reviewer = reviewer(&api, 0.0, 0);
    let gone = reviewer.review(&hour_token(1)).await.unwrap_err();
    assert!(matches!(gone, TokenError::Invalidated(_)), "{gone}");
    api.know(&hour_token(2), of_pod("uid-1"));
    api.put_pod("kube-system", "agent-x", "uid-2", "worker-7");
    let replaced = reviewer.review(&hour_token(2)).await.unwrap_err();
    assert!(matches!(replaced, TokenError::Invalidated(_)), "{replaced}");
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_read_pods_a_token_proves_no_node_and_without_an_answer_it_waits() {
    let api = FakeApi::new();
    api.know(&hour_token(1), of_pod("uid-1"));
    api.put_pod("kube-system", "agent-x", "uid-1", "worker-7");
    let reviewer = reviewer(&api, 0.0, 0);
    api.fail(Verb::GetPod, Some((500, "InternalError")));
    let failed = reviewer.review(&hour_token(1)).await.unwrap_err();
    assert!(failed.is_temporary(), "{failed}");
    api.fail(Verb::GetPod, Some((403, "Forbidden")));
    let reviewed = reviewer.review(&hour_token(1)).await.unwrap();
    assert_eq!((reviewed.node_name, reviewed.pod_name.as_deref()), (None, Some("agent-x")));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_token_costs_no_review() {
    let api = FakeApi::new();
    let reviewer = reviewer(&api, 0.0, 0);
    assert_eq!(reviewer.review("").await, Err(TokenError::Missing));
    assert_eq!(reviewer.review("secret").await, Err(TokenError::Malformed));
    let long = "x".repeat(20_000);
    assert_eq!(reviewer.review(&long).await, Err(TokenError::Oversized { length: 20_000 }));
    assert_eq!(api.asked(Verb::Review), 0);
}

/// Anybody can make tokens that look well, and each would take the review of an agent.
#[tokio::test(start_paused = true)]
async fn a_token_that_its_own_claims_refuse_costs_no_review() {
    let api = FakeApi::new();
    let reviewer = reviewer(&api, 5.0, 10);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let forged = |claims: String| {
        use base64::Engine as _;
        let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part("{}"), part(&claims), part("signature"))
    };
    for number in 0..100 {
        let (old, other) = (now - 61, "system:serviceaccount:default:default");
        for (claims, label) in [
            (format!(r#"{{"jti":{number},"aud":"{AUDIENCE}","exp":{old}}}"#), "token_expired"),
            (format!(r#"{{"jti":{number},"aud":["vault"],"sub":"{AGENT}"}}"#), "token_wrong_audience"),
            (format!(r#"{{"jti":{number},"aud":"{AUDIENCE}","sub":"{other}"}}"#), "token_wrong_account"),
        ] {
            assert_eq!(reviewer.review(&forged(claims)).await.unwrap_err().label(), label);
        }
    }
    assert_eq!(api.asked(Verb::Review), 0);
    // The clocks may differ, and the API decides about what is not said.
    for claims in [format!(r#"{{"aud":"{AUDIENCE}","exp":{}}}"#, now - 30), format!(r#"{{"sub":"{AGENT}"}}"#)]
    {
        api.know(&forged(claims.clone()), agent());
        reviewer.review(&forged(claims)).await.unwrap();
    }
    assert_eq!(api.asked(Verb::Review), 2);
}

#[tokio::test(start_paused = true)]
async fn every_refusal_says_why_and_what_was_expected() {
    let api = FakeApi::new();
    let reviewer = reviewer(&api, 0.0, 0);
    let refusal = async |token: &str| reviewer.review(token).await.unwrap_err().to_string();

    let unknown = refusal(&hour_token(1)).await;
    assert_eq!(unknown, "the Kubernetes API does not accept the token: invalid bearer token");

    let elsewhere = token("2", "vault", Duration::from_secs(60));
    api.know(&elsewhere, Holder { audiences: vec!["vault".to_owned()], ..agent() });
    let audience = refusal(&elsewhere).await;
    assert!(audience.contains("[\"vault\"]") && audience.contains(AUDIENCE), "{audience}");

    for (number, username) in [
        (3, "system:serviceaccount:default:konnectivity-agent"),
        (4, "system:serviceaccount:kube-system:coredns"),
        (5, "system:node:worker-7"),
        (6, "system:serviceaccount:kube-system:konnectivity-agent:x"),
        (7, ""),
    ] {
        api.know(&hour_token(number), Holder { username: username.to_owned(), ..agent() });
        let account = refusal(&hour_token(number)).await;
        assert!(account.contains(AGENT) && account.contains(&format!("{username:?}")), "{account}");
    }
}

/// The texts of kube-apiservers from 1.20 on, with those of other authenticators around them.
#[test]
fn an_api_that_does_not_accept_a_token_is_understood() {
    for (said, label) in [
        ("[invalid bearer token, service account token has expired]", "token_expired"),
        ("[invalid bearer token, Token has expired]", "token_expired"),
        ("[invalid bearer token, service account token has been invalidated]", "token_invalidated"),
        ("[invalid bearer token, Token has been invalidated]", "token_invalidated"),
        ("invalid bearer token", "token_unauthenticated"),
        ("certificate has expired", "token_unauthenticated"),
    ] {
        let error = TokenError::unauthenticated(said.to_owned());
        assert_eq!(error.label(), label, "{said}");
        assert!(error.to_string().ends_with(said) && !error.is_temporary(), "{error}");
    }
}

/// Such an API server accepts any token of the cluster for any audience.
#[tokio::test(start_paused = true)]
async fn an_api_that_knows_no_audiences_proves_nothing() {
    let api = FakeApi::new();
    api.know(&hour_token(1), Holder { audiences: Vec::new(), ..agent() });
    let verdict = reviewer(&api, 0.0, 0).review(&hour_token(1)).await;
    assert_eq!(verdict, Err(TokenError::WrongAudience { expected: AUDIENCE.to_owned(), came: Vec::new() }));
}

#[tokio::test(start_paused = true)]
async fn a_good_token_is_not_reviewed_again_for_two_minutes() {
    let api = FakeApi::new();
    api.know(&hour_token(1), agent());
    let reviewer = reviewer(&api, 0.0, 0);
    for _ in 0..100 {
        reviewer.review(&hour_token(1)).await.unwrap();
    }
    assert_eq!(api.asked(Verb::Review), 1);
    api.forget(&hour_token(1));
    advance(GOOD_FOR - Duration::from_secs(1)).await;
    assert!(reviewer.review(&hour_token(1)).await.is_ok());
    advance(Duration::from_secs(2)).await;
    assert!(reviewer.review(&hour_token(1)).await.is_err(), "revoked, and noticed now");
    assert_eq!(api.asked(Verb::Review), 2);
}

#[tokio::test(start_paused = true)]
async fn a_good_token_is_not_remembered_beyond_its_expiry() {
    let api = FakeApi::new();
    let short = token("1", AUDIENCE, Duration::from_secs(30));
    api.know(&short, agent());
    let reviewer = reviewer(&api, 0.0, 0);
    reviewer.review(&short).await.unwrap();
    advance(Duration::from_secs(25)).await;
    reviewer.review(&short).await.unwrap();
    assert_eq!(api.asked(Verb::Review), 1);
    advance(Duration::from_secs(6)).await;
    api.forget(&short);
    reviewer.review(&short).await.unwrap_err();
    assert_eq!(api.asked(Verb::Review), 2);
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_is_not_reviewed_again_for_ten_seconds() {
    let api = FakeApi::new();
    let reviewer = reviewer(&api, 0.0, 0);
    for _ in 0..100 {
        reviewer.review(&hour_token(1)).await.unwrap_err();
    }
    assert_eq!(api.asked(Verb::Review), 1);
    api.know(&hour_token(1), agent());
    advance(BAD_FOR + Duration::from_millis(1)).await;
    reviewer.review(&hour_token(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_who_bring_one_token_cost_one_review() {
    let api = FakeApi::new();
    api.know(&hour_token(1), agent());
    api.hold(true);
    let reviewer = reviewer(&api, 1.0, 1);
    let token = hour_token(1);
    let all = futures_util::future::join_all((0..500).map(|_| reviewer.review(&token)));
    let release = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        api.hold(false);
    };
    let (verdicts, ()) = tokio::join!(all, release);
    assert!(verdicts.iter().all(Result::is_ok));
    assert_eq!(api.asked(Verb::Review), 1);
    assert!(reviewer.0.known().flights.is_empty(), "nothing is left behind");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_does_not_take_the_review_of_the_others_along() {
    let api = FakeApi::new();
    api.know(&hour_token(1), agent());
    api.hold(true);
    let reviewer = reviewer(&api, 0.0, 0);
    let token = hour_token(1);
    let impatient = tokio::time::timeout(Duration::from_secs(1), reviewer.review(&token));
    let patient = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        reviewer.review(&token).await
    };
    let release = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        api.hold(false);
    };
    let (impatient, patient, ()) = tokio::join!(impatient, patient, release);
    assert!(impatient.is_err(), "left before the answer");
    assert!(patient.is_ok());
    assert!(reviewer.0.known().flights.is_empty());
}

/// Five a second and ten at once, for four seconds: thirty are reviewed, and
/// the others hear at once that there are too many.
#[tokio::test(start_paused = true)]
async fn a_storm_of_agents_is_no_storm_of_reviews() {
    let api = FakeApi::new();
    let tokens: Vec<_> = (0..1000).map(hour_token).collect();
    for token in &tokens {
        api.know(token, agent());
    }
    let reviewer = reviewer(&api, 5.0, 10);
    let began = Instant::now();
    let at_once = AtomicUsize::new(0);
    let verdicts = futures_util::future::join_all(tokens.iter().map(async |token| {
        let verdict = reviewer.review(token).await;
        if began.elapsed() < Duration::from_millis(100) {
            at_once.fetch_add(1, Ordering::Relaxed);
        }
        verdict
    }))
    .await;
    let good = verdicts.iter().filter(|verdict| verdict.is_ok()).count();
    let busy = verdicts.iter().filter(|verdict| **verdict == Err(TokenError::Busy)).count();
    assert_eq!((good, busy), (30, 970));
    assert_eq!(api.asked(Verb::Review), 30);
    assert_eq!(at_once.load(Ordering::Relaxed), 10 + 970);
    assert!(began.elapsed() <= PATIENCE + Duration::from_millis(100));
    // They come back, and get their turn.
    advance(Duration::from_secs(1)).await;
    assert!(reviewer.review(&tokens[999]).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn without_a_rate_there_is_a_limit_still() {
    let api = FakeApi::new();
    api.hold(true);
    let reviewer = reviewer(&api, -1.0, 0);
    let tokens: Vec<_> = (0..MOST_REVIEWS + 10).map(hour_token).collect();
    let verdicts = futures_util::future::join_all(tokens.iter().map(|token| reviewer.review(token))).await;
    let busy = verdicts.iter().filter(|verdict| **verdict == Err(TokenError::Busy)).count();
    assert_eq!(busy, 10);
    assert_eq!(api.asked(Verb::Review), MOST_REVIEWS);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_admitted_while_the_api_cannot_say() {
    let api = FakeApi::new();
    api.know(&hour_token(1), agent());
    let reviewer = reviewer(&api, 0.0, 0);
    api.fail(Verb::Review, Some((403, "Forbidden")));
    let error = reviewer.review(&hour_token(1)).await.unwrap_err();
    assert!(error.is_temporary());
    assert!(error.to_string().contains("403 Forbidden"), "{error}");
    api.fail(Verb::Review, None);

    api.hold(true);
    let began = Instant::now();
    let error = reviewer.review(&hour_token(1)).await.unwrap_err();
    assert!(error.to_string().contains("did not answer within 5 s"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(6));
    api.hold(false);
    // A failure is not remembered.
    assert!(reviewer.review(&hour_token(1)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn reviews_that_were_made_are_told_of() {
    let api = FakeApi::new();
    api.know(&hour_token(1), agent());
    let told = Arc::new(Mutex::new(Vec::new()));
    let observe = {
        let told = Arc::clone(&told);
        Arc::new(move |event: ReviewEvent| told.lock().unwrap().push(event.outcome))
    };
    let reviewer = TokenReviewer::new(&cluster(&api, 0.0, 0), expected(), observe);
    for number in [1, 1, 2, 2] {
        let _ = reviewer.review(&hour_token(number)).await;
    }
    assert_eq!(*told.lock().unwrap(), ["good", "token_unauthenticated"]);
}

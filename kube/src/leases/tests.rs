//! Leases over a fake API, in memory, on a paused clock.

mod address;
mod annotation;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tunnel::drain::Drain;
use tunnel_kube_fake::{FakeApi, Verb};

use super::publish::Publisher;
use super::*;
use crate::Observe;
use crate::testing::{cluster, now};

const NAMESPACE: &str = "kube-system";

fn at(seconds_from_now: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds_from_now)
}

fn text(time: Timestamp) -> String {
    serde_json::to_value(MicroTime(time)).unwrap().as_str().unwrap().to_owned()
}

fn labels() -> Value {
    json!({"k8s-app": "konnectivity-server"})
}

fn renewed(seconds_ago: i64) -> Value {
    json!({"leaseDurationSeconds": 30, "renewTime": text(at(-seconds_ago))})
}

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<LeaseEvent>>>);

impl Told {
    fn observe(&self) -> Observe<LeaseEvent> {
        let told = self.clone();
        Arc::new(move |event| told.0.lock().unwrap().push(event))
    }

    /// Status and reason of all events of a kind.
    fn answers(&self, of: fn(&LeaseEvent) -> Option<&Outcome>) -> Vec<(u16, String)> {
        let events = self.0.lock().unwrap();
        events.iter().filter_map(of).map(|outcome| (outcome.code, outcome.reason.clone())).collect()
    }

    fn culled(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|event| **event == LeaseEvent::Culled).count()
    }
}

fn listed(event: &LeaseEvent) -> Option<&Outcome> {
    if let LeaseEvent::Listed(answer) = event { Some(answer) } else { None }
}

fn deleted(event: &LeaseEvent) -> Option<&Outcome> {
    if let LeaseEvent::Deleted(answer) = event { Some(answer) } else { None }
}

fn watched(event: &LeaseEvent) -> Option<&Outcome> {
    if let LeaseEvent::Watched(answer) = event { Some(answer) } else { None }
}

fn annotation() -> Annotation {
    Annotation { key: "test/summary", value: Arc::new(|| "{}".to_owned()) }
}

fn publication() -> Publication {
    Publication {
        server_id: "s1".to_owned(),
        namespace: NAMESPACE.to_owned(),
        labels: vec![("k8s-app".to_owned(), "konnectivity-server".to_owned())],
        address: None,
    }
}

/// A server's publication, which ends when the returned half is dropped or used.
struct Publishing {
    stop: Option<oneshot::Sender<()>>,
    drain: Drain,
    ended: oneshot::Receiver<()>,
    told: Told,
}

impl Publishing {
    fn start(api: &FakeApi) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (drain, told) = (Drain::new(), Told::default());
        let (cluster, observe) = (cluster(api, 0.0, 0), told.observe());
        drain.spawn("publisher", async move {
            let until = async { drop(stopped.await) };
            publish(cluster, publication(), annotation(), observe, until).await;
            let _ = end.send(());
        });
        Self { stop: Some(stop), drain, ended, told }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.ended).await.unwrap();
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        self.drain.kill();
    }
}

fn own(api: &FakeApi) -> Option<Value> {
    api.leases(NAMESPACE).get("konnectivity-proxy-server-s1").cloned()
}

#[tokio::test(start_paused = true)]
async fn a_server_keeps_its_lease_and_deletes_it_in_the_end() {
    let api = FakeApi::new();
    let publishing = Publishing::start(&api);
    sleep(Duration::from_secs(1)).await;
    let first = own(&api).expect("a lease");
    assert_eq!(first["metadata"]["labels"], labels());
    assert_eq!(first["spec"]["holderIdentity"], "s1");
    assert_eq!(first["spec"]["leaseDurationSeconds"], 30);
    assert_eq!(first["spec"]["acquireTime"], first["spec"]["renewTime"]);

    sleep(Duration::from_secs(60)).await;
    let later = own(&api).unwrap();
    assert_eq!(api.asked(Verb::Update), 4, "one every fifteen seconds");
    assert_eq!(api.asked(Verb::Get), 1, "only before the first");
    assert_eq!(later["spec"]["acquireTime"], first["spec"]["acquireTime"]);
    assert_eq!(later["spec"]["renewTime"], text(at(-1)));

    publishing.stop().await;
    assert_eq!(own(&api), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_there_already_is_taken_over() {
    let api = FakeApi::new();
    let name = "konnectivity-proxy-server-s1";
    let spec = json!({"leaseDurationSeconds": 5, "renewTime": text(at(-100)), "holderIdentity": "other"});
    api.put_lease(NAMESPACE, name, &json!({"old": "label"}), &spec);
    let _publishing = Publishing::start(&api);
    sleep(Duration::from_secs(1)).await;
    let lease = own(&api).unwrap();
    assert_eq!(lease["metadata"]["labels"], labels());
    assert_eq!(lease["spec"]["holderIdentity"], "s1");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 30);
    assert_eq!(lease["spec"]["acquireTime"], lease["spec"]["renewTime"]);

    // Somebody writes or deletes it: the next renewal sees to it.
    api.put_lease(NAMESPACE, name, &labels(), &spec);
    sleep(Duration::from_secs(16)).await;
    assert_eq!(own(&api).unwrap()["spec"]["holderIdentity"], "s1");
    api.delete_lease(NAMESPACE, name);
    sleep(Duration::from_secs(16)).await;
    assert!(own(&api).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_before_the_lease_runs_out() {
    let api = FakeApi::new();
    let _publishing = Publishing::start(&api);
    sleep(Duration::from_secs(1)).await;
    api.fail(Verb::Update, Some((500, "InternalError")));
    sleep(Duration::from_secs(20)).await;
    let failed = api.asked(Verb::Update);
    assert!((2..60).contains(&failed), "{failed} attempts");
    api.fail(Verb::Update, None);
    sleep(Duration::from_secs(5)).await;
    let ends = own(&api).unwrap()["spec"]["renewTime"].as_str().unwrap().parse::<Timestamp>().unwrap();
    assert!(ends > at(-6), "renewed since");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_program_does_not_wait_for_an_api_that_is_gone() {
    let api = FakeApi::new();
    let publishing = Publishing::start(&api);
    sleep(Duration::from_secs(1)).await;
    api.hold(true);
    let began = Instant::now();
    publishing.stop().await;
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn expired_leases_of_other_servers_are_deleted_and_no_others() {
    let api = FakeApi::new();
    api.put_lease(NAMESPACE, "expired", &labels(), &renewed(31));
    api.put_lease(NAMESPACE, "never-renewed", &labels(), &json!({"leaseDurationSeconds": 30}));
    api.put_lease(NAMESPACE, "kept", &labels(), &renewed(1));
    api.put_lease(NAMESPACE, "of-somebody-else", &json!({"k8s-app": "other"}), &renewed(1000));
    api.put_lease("default", "elsewhere", &labels(), &renewed(1000));
    let publishing = Publishing::start(&api);
    sleep(Duration::from_secs(1)).await;
    let names = |namespace| api.leases(namespace).into_keys().collect::<Vec<_>>();
    assert_eq!(names(NAMESPACE), ["kept", "konnectivity-proxy-server-s1", "of-somebody-else"]);
    assert_eq!(names("default"), ["elsewhere"]);
    assert_eq!(publishing.told.culled(), 2);
    assert_eq!(publishing.told.answers(deleted), vec![(200, String::new()); 2]);
    assert_eq!(publishing.told.answers(listed), [(200, String::new())]);

    sleep(Duration::from_secs(60)).await;
    assert_eq!(names(NAMESPACE), ["konnectivity-proxy-server-s1", "of-somebody-else"]);
    assert!((4..=6).contains(&publishing.told.answers(listed).len()), "about every fifteen seconds");
}

/// Between the list and the deletion a server may come back.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_in_time_is_not_deleted() {
    let api = FakeApi::new();
    api.put_lease(NAMESPACE, "peer", &labels(), &renewed(31));
    let stale = Lease {
        metadata: serde_json::from_value(api.leases(NAMESPACE)["peer"]["metadata"].clone()).unwrap(),
        ..Lease::default()
    };
    api.put_lease(NAMESPACE, "peer", &labels(), &renewed(0));
    let told = Told::default();
    let publisher = Publisher::new(&cluster(&api, 0.0, 0), publication(), annotation(), told.observe());
    publisher.cull_if_expired(stale).await;
    assert!(api.leases(NAMESPACE).contains_key("peer"));
    assert_eq!(told.answers(deleted), [(409, "Conflict".to_owned())]);
    assert_eq!(told.culled(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_may_not_list_still_keeps_its_lease() {
    let api = FakeApi::new();
    api.fail(Verb::List, Some((403, "Forbidden")));
    let publishing = Publishing::start(&api);
    sleep(Duration::from_secs(40)).await;
    assert!(own(&api).is_some());
    assert!(publishing.told.answers(listed).iter().all(|answer| *answer == (403, "Forbidden".to_owned())));
}

/// An agent's count over a fake API.
struct Agent {
    api: FakeApi,
    count: watch::Receiver<Option<Counted>>,
    drain: Drain,
    told: Told,
}

impl Agent {
    fn start(api: &FakeApi) -> Self {
        let (drain, told) = (Drain::new(), Told::default());
        let counting =
            Counting { namespace: NAMESPACE.to_owned(), selector: "k8s-app=konnectivity-server".to_owned() };
        // As many requests as it likes: these tests are about time.
        let count = count(&cluster(api, -1.0, 0), counting, told.observe(), &drain);
        Self { api: api.clone(), count, drain, told }
    }

    /// Renews these Leases for a while, as their servers would.
    async fn renew_for(&self, seconds: u64, names: &[&str]) {
        for _ in 0..seconds / 15 {
            for name in names {
                self.api.put_lease(NAMESPACE, name, &labels(), &renewed(0));
            }
            sleep(Duration::from_secs(15)).await;
        }
    }

    fn servers(&self) -> Option<u32> {
        self.count.borrow().as_ref().map(|count| count.servers)
    }

    async fn becomes(&mut self, wanted: u32) -> Duration {
        let began = Instant::now();
        let is_it = |count: &Option<Counted>| count.as_ref().is_some_and(|count| count.servers == wanted);
        let waited = self.count.wait_for(is_it);
        let last = tokio::time::timeout(Duration::from_secs(600), waited).await.map(|_| ());
        assert!(last.is_ok(), "the count stays {:?} and does not become {wanted}", self.servers());
        began.elapsed()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.drain.kill();
    }
}

#[tokio::test(start_paused = true)]
async fn servers_are_counted_as_they_come_and_go() {
    let api = FakeApi::new();
    api.put_lease(NAMESPACE, "one", &labels(), &renewed(0));
    api.put_lease(NAMESPACE, "expired", &labels(), &renewed(40));
    api.put_lease(NAMESPACE, "of-somebody-else", &json!({"k8s-app": "other"}), &renewed(0));
    api.put_lease("default", "elsewhere", &labels(), &renewed(0));
    let mut agent = Agent::start(&api);
    assert_eq!(agent.servers(), None, "nothing is known yet");
    agent.becomes(1).await;
    api.put_lease(NAMESPACE, "two", &labels(), &renewed(0));
    assert!(agent.becomes(2).await < Duration::from_secs(1), "seen by the watch");
    api.delete_lease(NAMESPACE, "one");
    assert!(agent.becomes(1).await < Duration::from_secs(1));
    // A server that takes its expired lease up again.
    api.put_lease(NAMESPACE, "expired", &labels(), &renewed(0));
    agent.becomes(2).await;
    assert_eq!(agent.told.answers(listed).len(), 1);
    assert_eq!(agent.told.answers(watched), [(200, String::new())]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_not_renewed_stops_counting() {
    let api = FakeApi::new();
    for name in ["one", "two"] {
        api.put_lease(NAMESPACE, name, &labels(), &renewed(0));
    }
    let mut agent = Agent::start(&api);
    agent.becomes(2).await;
    let lists = agent.told.answers(listed).len();
    sleep(Duration::from_secs(15)).await;
    agent.api.put_lease(NAMESPACE, "one", &labels(), &renewed(0));
    agent.becomes(1).await;
    assert_eq!(agent.told.answers(listed).len(), lists + 1, "confirmed by a list");
    // The last one too: nothing is valid, which is said as it is.
    let lasted = agent.becomes(0).await;
    let longest = Duration::from_secs(30) + Duration::from_secs(6);
    assert!(lasted <= longest, "{lasted:?}");
}

#[tokio::test(start_paused = true)]
async fn the_count_stays_while_leases_cannot_be_listed() {
    let api = FakeApi::new();
    for name in ["one", "two"] {
        api.put_lease(NAMESPACE, name, &labels(), &renewed(0));
    }
    let mut agent = Agent::start(&api);
    agent.becomes(2).await;
    for verb in [Verb::List, Verb::Watch] {
        api.fail(verb, Some((503, "ServiceUnavailable")));
    }
    api.cut_watches();
    sleep(Duration::from_secs(600)).await;
    assert_eq!(agent.servers(), Some(2), "nothing is known of renewals");
    let failed = agent.told.answers(listed).iter().filter(|(code, _)| *code == 503).count();
    assert!((5..100).contains(&failed), "{failed} lists in ten minutes");

    for verb in [Verb::List, Verb::Watch] {
        api.fail(verb, None);
    }
    // Valid for longer than it may take until the next list.
    let long = json!({"leaseDurationSeconds": 3600, "renewTime": text(now())});
    api.put_lease(NAMESPACE, "one", &labels(), &long);
    assert!(agent.becomes(1).await <= Duration::from_secs(61));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_goes_on_where_it_was() {
    let api = FakeApi::new();
    api.put_lease(NAMESPACE, "one", &labels(), &renewed(0));
    let mut agent = Agent::start(&api);
    agent.becomes(1).await;
    // Longer than any watch lasts.
    agent.renew_for(900, &["one"]).await;
    assert!(agent.told.answers(watched).len() >= 3);
    assert_eq!(agent.told.answers(listed).len(), 1, "and nothing is listed anew");
    api.put_lease(NAMESPACE, "two", &labels(), &renewed(0));
    agent.becomes(2).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_that_cannot_watch_is_not_run_down() {
    let api = FakeApi::new();
    api.put_lease(NAMESPACE, "one", &labels(), &renewed(0));
    api.fail(Verb::Watch, Some((403, "Forbidden")));
    let mut agent = Agent::start(&api);
    agent.becomes(1).await;
    sleep(Duration::from_secs(600)).await;
    let lists = agent.told.answers(listed).len();
    assert!((5..60).contains(&lists), "{lists} lists in ten minutes");
    assert!(agent.told.answers(watched).contains(&(403, "Forbidden".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn counting_ends_with_the_drain_and_with_the_last_who_wants_to_know() {
    let api = FakeApi::new();
    let agent = Agent::start(&api);
    sleep(Duration::from_secs(1)).await;
    agent.drain.start();
    tokio::time::timeout(Duration::from_secs(1), agent.drain.finish()).await.expect("the counter ends");
}

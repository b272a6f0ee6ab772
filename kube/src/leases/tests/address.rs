//! Addresses in Leases, published and followed.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::*;

fn addr(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 8132).into()
}

fn addrs(these: &[u8]) -> BTreeSet<SocketAddr> {
    these.iter().copied().map(addr).collect()
}

fn publisher(api: &FakeApi, address: Option<SocketAddr>) -> (Drain, oneshot::Sender<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let (drain, cluster) = (Drain::new(), cluster(api, 0.0, 0));
    let publication = Publication { address, ..publication() };
    drain.spawn("publisher", async move {
        let observe = Told::default().observe();
        publish(cluster, publication, annotation(), observe, async { drop(stopped.await) }).await;
    });
    (drain, stop)
}

impl Agent {
    /// Waits until these are told, beside a number of servers.
    async fn names(&mut self, servers: u32, these: &[u8]) -> Duration {
        let began = Instant::now();
        let wanted = Some(Counted { servers, addresses: addrs(these) });
        let waited = self.count.wait_for(|count| *count == wanted);
        let last = tokio::time::timeout(Duration::from_secs(600), waited).await.map(|_| ());
        assert!(last.is_ok(), "{:?} does not become {wanted:?}", *self.count.borrow());
        began.elapsed()
    }

    fn advertise(&self, name: &str, text: &str) {
        self.api.put_lease(NAMESPACE, name, &labels(), &renewed(0));
        self.api.annotate_lease(NAMESPACE, name, ADDRESS, text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_publishes_its_address_beside_its_status() {
    let api = FakeApi::new();
    let (drain, stop) = publisher(&api, Some(addr(7)));
    sleep(Duration::from_secs(31)).await;
    let annotations = own(&api).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(annotations, json!({"test/summary": "{}", ADDRESS: "10.0.0.7:8132"}));
    assert_eq!(api.asked(Verb::Update), 2, "it costs no request");
    let mut agent = Agent::start(&api);
    agent.names(1, &[7]).await;
    // A clean stop takes the address with it.
    drop(stop);
    drain.finish().await;
    assert!(agent.names(0, &[]).await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_advertises_nothing_takes_an_older_address_away() {
    let api = FakeApi::new();
    let name = "konnectivity-proxy-server-s1";
    api.put_lease(NAMESPACE, name, &labels(), &renewed(0));
    for (annotation, value) in [(ADDRESS, "10.0.0.7:8132"), ("of-others", "stays")] {
        api.annotate_lease(NAMESPACE, name, annotation, value);
    }
    let (drain, _stop) = publisher(&api, None);
    sleep(Duration::from_secs(1)).await;
    let annotations = own(&api).unwrap()["metadata"]["annotations"].clone();
    assert_eq!(annotations, json!({"test/summary": "{}", "of-others": "stays"}));
    drain.kill();
}

#[tokio::test(start_paused = true)]
async fn addresses_come_and_go_with_valid_leases() {
    let api = FakeApi::new();
    let mut agent = Agent::start(&api);
    agent.advertise("one", "10.0.0.1:8132");
    agent.advertise("two", "10.0.0.2:8132");
    // As Konnectivity's servers have it.
    api.put_lease(NAMESPACE, "three", &labels(), &renewed(0));
    agent.names(3, &[1, 2]).await;
    agent.advertise("three", "10.0.0.3:8132");
    assert!(agent.names(3, &[1, 2, 3]).await < Duration::from_secs(1), "the address alone has changed");
    api.delete_lease(NAMESPACE, "one");
    assert!(agent.names(2, &[2, 3]).await < Duration::from_secs(1));

    // One that is not renewed runs out with its address; the API's silence changes nothing.
    let long = json!({"leaseDurationSeconds": 3600, "renewTime": text(now())});
    api.put_lease(NAMESPACE, "three", &labels(), &long);
    api.annotate_lease(NAMESPACE, "three", ADDRESS, "10.0.0.3:8132");
    let lasted = agent.names(1, &[3]).await;
    assert!(lasted <= Duration::from_secs(36), "{lasted:?}");
    for verb in [Verb::List, Verb::Watch] {
        api.fail(verb, Some((503, "ServiceUnavailable")));
    }
    api.cut_watches();
    sleep(Duration::from_secs(300)).await;
    agent.names(1, &[3]).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_no_good_is_ignored_for_itself() {
    let api = FakeApi::new();
    let mut agent = Agent::start(&api);
    agent.advertise("good", "10.0.0.1:8132");
    for (name, text) in
        [("a", "cp-1.example:8132"), ("b", "0.0.0.0:8132"), ("c", "10.0.0.2:0"), ("d", &"1".repeat(100_000))]
    {
        agent.advertise(name, text);
    }
    agent.names(5, &[1]).await;
    // It may become a good one.
    agent.advertise("a", "10.0.0.2:8132");
    agent.names(5, &[1, 2]).await;
    agent.advertise("a", "nonsense");
    agent.names(5, &[1]).await;
}

#[tokio::test(start_paused = true)]
async fn no_number_of_leases_makes_more_addresses_than_there_may_be() {
    let api = FakeApi::new();
    let mut agent = Agent::start(&api);
    for n in 0..200 {
        agent.advertise(&format!("server-{n}"), &format!("10.0.1.{n}:8132"));
    }
    agent.becomes(200).await;
    assert_eq!(agent.count.borrow().as_ref().unwrap().addresses.len(), 64);
}

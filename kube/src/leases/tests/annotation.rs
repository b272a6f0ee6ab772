//! A Lease's annotation, written and read.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_annotation_costs_no_request_and_is_read_with_the_lease() {
    let api = FakeApi::new();
    let number = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let value = move || number.fetch_add(1, std::sync::atomic::Ordering::Relaxed).to_string();
    let annotation = Annotation { key: "test/summary", value: Arc::new(value) };
    let (stop, stopped) = oneshot::channel::<()>();
    let drain = Drain::new();
    let (publisher, observe) = (cluster(&api, 0.0, 0), Told::default().observe());
    drain.spawn("publisher", async move {
        publish(publisher, publication(), annotation, observe, async { drop(stopped.await) }).await;
    });
    sleep(Duration::from_secs(31)).await;
    assert_eq!((api.asked(Verb::Create), api.asked(Verb::Update), api.asked(Verb::Get)), (1, 2, 1));
    api.put_lease(NAMESPACE, "konnectivity-proxy-server-s0", &labels(), &renewed(40));
    api.put_lease(NAMESPACE, "other", &json!({"k8s-app": "other"}), &renewed(1));

    let seen = list(&cluster(&api, 0.0, 0), NAMESPACE, "k8s-app=konnectivity-server", "test/summary").await;
    let seen = seen.unwrap();
    let brief: Vec<_> = seen.iter().map(|lease| (lease.holder.as_deref(), lease.valid)).collect();
    assert_eq!(brief, [(None, false), (Some("s1"), true)]);
    assert_eq!(seen[0].age, Some(Duration::from_secs(40)));
    assert_eq!((seen[1].annotation.as_deref(), seen[1].age), (Some("2"), Some(Duration::from_secs(1))));

    api.fail(Verb::List, Some((403, "Forbidden")));
    let error = list(&cluster(&api, 0.0, 0), NAMESPACE, "", "test/summary").await.unwrap_err().to_string();
    assert!(error.contains("namespace kube-system") && error.contains("403 Forbidden"), "{error}");
    drop(stop);
    drain.finish().await;
}

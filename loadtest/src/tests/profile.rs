//! Every profile, for a moment, against a frontend inside the process.

use tunnel_client::Protocol;
use tunnel_client::fake::Fault;

use super::{BOTH, figure, run, sound};
use crate::plan::Scenario;

#[tokio::test]
async fn each_profile_does_what_it_intends() {
    let profiles = [
        (Scenario::Exec, ""),
        (Scenario::Logs, ""),
        (Scenario::Watch, ""),
        (Scenario::Webhook, ""),
        (Scenario::Scrape, ""),
        (Scenario::Cp, "upload "),
        (Scenario::Cp, "download "),
        (Scenario::PortForward, "small answers "),
    ];
    for protocol in BOTH {
        for (scenario, prefix) in profiles {
            let outcome = sound(protocol, scenario).await;
            let of = |name: &str| figure(&outcome, &format!("{prefix}{name}"));
            assert!(of("rate intended") > 0.0 && of("rate achieved") > 0.0, "{scenario:?}");
            assert!(of("latency p50") <= of("latency p99.9"), "{scenario:?}");
            assert!(of("latency max") > 0.0 && of("errors") == 0.0, "{scenario:?}");
            assert!(of("bytes up") + of("bytes down") > 0.0, "{scenario:?}");
            assert_eq!(figure(&outcome, "stalled readers"), 0.0);
            assert!(figure(&outcome, "canaries whole") >= 1.0, "{scenario:?}");
        }
    }
}

#[tokio::test]
async fn the_mixed_profile_has_all_shapes_at_once() {
    let outcome = sound(Protocol::Connect, Scenario::Mixed).await;
    for shape in ["keystrokes", "log lines", "events", "webhooks", "small answers", "scrapes"] {
        assert!(figure(&outcome, &format!("{shape} rate achieved")) > 0.0, "{shape}");
    }
}

#[tokio::test]
async fn what_a_faulty_frontend_does_to_a_profile_is_told() {
    for scenario in [Scenario::Exec, Scenario::Logs, Scenario::Scrape, Scenario::Cp] {
        let outcome = run(Protocol::Connect, Fault::Corrupt, scenario).await.unwrap();
        assert!(outcome.failures.iter().any(|text| text.contains("operations failed")), "{outcome:?}");
        assert!(outcome.failures.iter().any(|text| text.starts_with("canary: ")), "{outcome:?}");
    }
    let refusing = run(Protocol::Grpc, Fault::Refuse("no agent available"), Scenario::Mixed).await.unwrap();
    let [failure] = refusing.failures.as_slice() else { panic!("{refusing:?}") };
    assert!(failure.contains("no agent available"), "{failure}");
}

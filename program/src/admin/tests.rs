use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus::{IntCounter, PullingGauge};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

struct Page {
    status: u16,
    location: Option<String>,
    body: String,
}

async fn get_page(addr: SocketAddr, request: &str, host: &str) -> Page {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let location = head.lines().find_map(|line| line.strip_prefix("location: ")).map(str::to_owned);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Page { status, location, body: body.to_owned() }
}

async fn started(routes: Router, drain: &Drain) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let until = drain.clone();
    drain.spawn("admin", async move { serve(listener, routes, until).await });
    addr
}

fn registry() -> Registry {
    let registry = Registry::new();
    registry.register(Box::new(IntCounter::new("a_total", "A counter.").unwrap())).unwrap();
    registry
}

async fn health(not_ready: NotReady, name: &'static str, drain: &Drain) -> (SocketAddr, Arc<AtomicBool>) {
    let is_ready = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_ready);
    let readiness: Readiness = Arc::new(move |_: Query<'_>| {
        let ready = asked.load(Ordering::Relaxed);
        let failure = (!ready).then(|| "nobody there".to_owned());
        vec![Check { name, failure, note: Some("1 of 1".to_owned()) }]
    });
    (started(health_routes(registry(), Arc::new(|| None), readiness, not_ready), drain).await, is_ready)
}

#[tokio::test]
async fn an_agent_answers_with_the_list_of_checks() {
    let drain = Drain::new();
    let (addr, is_ready) = health(NotReady::List, "server-connected", &drain).await;
    let page = async |path: &str| {
        let page = get_page(addr, &format!("GET {path}"), "localhost").await;
        (page.status, page.body)
    };
    let missing = (503, "[+]ping ok\n[-]server-connected failed: nobody there\n".to_owned());
    for path in ["/readyz", "/ready", "/readyz?verbose", "/readyz?verbose=1"] {
        assert_eq!(page(path).await, missing, "{path}");
    }
    is_ready.store(true, Ordering::Relaxed);
    assert_eq!(page("/readyz").await, (200, "ok".to_owned()));
    assert_eq!(page("/ready").await, (200, "ok".to_owned()));
    let passed = (200, "[+]ping ok\n[+]server-connected ok\n    1 of 1\ncheck passed\n".to_owned());
    assert_eq!(page("/readyz?verbose").await, passed);
    for path in ["/healthz", "/livez"] {
        assert_eq!(page(path).await, (200, "ok".to_owned()), "{path}");
    }
    assert!(page("/metrics").await.1.contains("a_total 0"));
    drain.finish().await;
}

#[tokio::test]
async fn a_server_answers_with_what_is_missing() {
    let drain = Drain::new();
    let (addr, is_ready) = health(NotReady::Reason, "agent-connected", &drain).await;
    let page = async |path: &str| {
        let page = get_page(addr, &format!("GET {path}"), "localhost").await;
        (page.status, page.body)
    };
    assert_eq!(page("/readyz").await, (500, "nobody there".to_owned()));
    assert_eq!(page("/ready").await, (500, "nobody there".to_owned()));
    let list = "[+]ping ok\n[-]agent-connected failed: nobody there\n".to_owned();
    assert_eq!(page("/readyz?verbose").await, (500, list));
    is_ready.store(true, Ordering::Relaxed);
    assert_eq!(page("/readyz").await, (200, "ok".to_owned()));
    drain.finish().await;
}

#[tokio::test]
async fn metrics_on_the_admin_listener_are_there_or_elsewhere() {
    let drain = Drain::new();
    let here = started(admin_routes(AdminMetrics::Here(registry()), false), &drain).await;
    let page = get_page(here, "GET /metrics", "localhost").await;
    assert!(page.status == 200 && page.body.contains("a_total 0"), "{}", page.body);
    assert_eq!(get_page(here, "GET /debug/pprof/", "localhost").await.status, 404);

    let elsewhere = started(admin_routes(AdminMetrics::On(8093), false), &drain).await;
    for (host, location) in [
        ("localhost:8094", "http://localhost:8093/metrics"),
        ("localhost", "http://localhost:8093/metrics"),
        ("[::1]:8094", "http://[::1]:8093/metrics"),
        ("[::1]", "http://[::1]:8093/metrics"),
    ] {
        let page = get_page(elsewhere, "GET /metrics", host).await;
        assert_eq!((page.status, page.location.as_deref()), (301, Some(location)), "{host}");
    }
    let page = get_page(elsewhere, "GET /metrics?name=a", "h").await;
    assert_eq!(page.location.as_deref(), Some("http://h:8093/metrics?name=a"));
    assert_eq!(get_page(elsewhere, "GET /metrics", "").await.status, 400);
    drain.finish().await;
}

#[tokio::test]
async fn profiling_says_what_there_is_and_what_is_not() {
    let drain = Drain::new();
    let addr = started(admin_routes(AdminMetrics::On(1), true), &drain).await;
    let page = async |request: &str| get_page(addr, request, "localhost").await;
    let moved = page("GET /debug/pprof").await;
    assert_eq!((moved.status, moved.location.as_deref()), (301, Some("/debug/pprof/")));
    assert!(page("GET /debug/pprof/").await.body.contains("/debug/pprof/tasks"));
    assert!(page("GET /debug/pprof/tasks").await.body.contains("tasks "));
    assert!(page("GET /debug/pprof/cmdline").await.body.contains("tunnel"));
    assert!(page("GET /debug/pprof/status").await.body.contains("VmRSS"));
    for absent in ["GET /debug/pprof/profile?seconds=1", "POST /debug/pprof/symbol", "GET /debug/pprof/heap"]
    {
        assert_eq!(page(absent).await.status, 501, "{absent}");
    }
    assert_eq!(page("GET /debug/pprof/other").await.status, 404);
    drain.finish().await;
}

#[tokio::test]
async fn a_flood_of_connections_does_not_keep_a_probe_out() {
    let drain = Drain::new();
    let (addr, _) = health(NotReady::List, "server-connected", &drain).await;
    let from = |host: u8| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).unwrap();
        socket.connect(addr).await.unwrap()
    };
    let mut probe = from(2).await;
    let mut flood = Vec::new();
    for _ in 0..3 * CONNECTIONS {
        flood.push(from(3).await);
    }
    // The first ones of the flood are closed, without an answer.
    for stream in flood.iter_mut().take(2 * CONNECTIONS) {
        let read = timeout(Duration::from_secs(30), stream.read_u8()).await.unwrap();
        assert!(read.is_err(), "{read:?}");
    }
    assert_eq!(get_page(addr, "GET /livez", "localhost").await.status, 200);
    probe.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn values_of_a_query_are_those_of_its_parameter() {
    let values = |query, name: &str| Query(query).values(name).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(values(Some("verbose&strategy=a&strategies=b&strategy=c"), "strategy"), ["a", "c"]);
    assert!(values(Some("strategy"), "strategy").is_empty() && values(None, "strategy").is_empty());
}

/// A scraper that asks again and again and reads nothing: other tasks get their turn between two answers.
#[tokio::test]
async fn requests_for_metrics_let_others_work_in_between() {
    const REQUESTS: usize = 40;
    let (registry, gathered) = (Registry::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&gathered);
    let slow = Box::new(move || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        counted.fetch_add(1, Ordering::Relaxed) as f64
    });
    registry.register(Box::new(PullingGauge::new("slow", "Takes its time.", slow).unwrap())).unwrap();
    let drain = Drain::new();
    let addr = started(admin_routes(AdminMetrics::Here(registry), false), &drain).await;
    let mut scraper = TcpStream::connect(addr).await.unwrap();
    scraper.write_all("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(REQUESTS).as_bytes()).await.unwrap();
    let (mut before, mut most) = (0, 0);
    while before < REQUESTS {
        sleep(Duration::from_millis(1)).await;
        let now = gathered.load(Ordering::Relaxed);
        (before, most) = (now, most.max(now - before));
    }
    assert!(most <= 2, "{most} answers in one turn");
    drain.finish().await;
}

//! `log-level`, on the log of this process, which is the only test of it here: a process has one log.

use clap::Parser as _;
use tokio::io::AsyncWriteExt as _;
use tunnel_operate::report::LogLevelRequest;
use tunnel_program::args::LogArgs;
use tunnel_program::process::init_logging;

use super::*;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    log: LogArgs,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_level_changes_for_a_while_and_the_log_says_so() {
    let world = World::new().await;
    let file = world.path("log");
    let flag = format!("--log-file={}", file.display());
    let flags = Flags::parse_from(["tunnel-server", "--logtostderr=false", "--stderrthreshold=3", &flag]);
    let _flush = init_logging(&flags.log, "info").unwrap();
    let server = world.start(&world.spec("cp-1"));
    let client = world.client("cp-1");
    let logged = |text: &str| std::fs::read_to_string(&file).unwrap().matches(text).count();

    let level = client.log_level().await.unwrap();
    assert_eq!((level.filter.as_str(), level.left), ("info", None));
    let change = |filter: &str, seconds| LogLevelRequest { filter: Some(filter.to_owned()), seconds };
    for (filter, seconds, why) in [
        ("debgu", 60, "\"debgu\" is no level: use error"),
        ("info,tunnel=loud", 60, "is no filter"),
        ("debug", 0, "24h"),
        ("debug", 90_000, "24h"),
    ] {
        let error = client.change_log_level(&change(filter, seconds)).await.unwrap_err().to_string();
        assert!(error.contains("400 Bad Request") && error.contains(why), "{filter}: {error}");
    }
    assert_eq!(client.log_level().await.unwrap().filter, "info");

    let level = client.change_log_level(&change("info,tunnel=debug", 3600)).await.unwrap();
    assert_eq!((level.filter.as_str(), level.flags.as_str()), ("info,tunnel=debug", "info"));
    // Lines are written by a thread.
    let is_logged = async |text: &str| {
        wait_for(text, async || if logged(text) == 1 { Ok(()) } else { Err(logged(text).to_string()) }).await;
    };
    is_logged("the level of the log is another for a while").await;
    // The first of a client's mistakes is a line at every level, and others are lines at DEBUG.
    let stranger = async || {
        let mut stream = tokio::net::UnixStream::connect(&server.unix).await.unwrap();
        stream.write_all(b"CONNECT").await.unwrap();
    };
    for lines in 1..=2 {
        stranger().await;
        wait_for("a line", async || match logged("client dropped") {
            found if found == lines => Ok(()),
            found => Err(found.to_string()),
        })
        .await;
    }

    let level = client.change_log_level(&change("info,tunnel=debug", 2)).await.unwrap();
    assert!(level.left.is_some_and(|left| left <= 2), "{level:?}");
    wait_for("the level of the flags", async || {
        let level = client.log_level().await.unwrap();
        if level.left.is_none() { Ok(()) } else { Err(format!("{level:?}")) }
    })
    .await;
    is_logged("the level of the log is that of the flags again").await;
    stranger().await;
    let socket = world.shown("cp-1.admin");
    assert_eq!(
        world.server_command(&["log-level", "debug", "--for", "1h", "--admin-socket", &socket]).await,
        Health::Ok
    );
    assert_eq!(client.log_level().await.unwrap().filter, "debug");
    assert_eq!(world.server_command(&["log-level", "--reset", "--admin-socket", &socket]).await, Health::Ok);
    assert_eq!(
        world.server_command(&["log-level", "-o", "json", "--admin-socket", &socket]).await,
        Health::Ok
    );
    assert_eq!(world.server_command(&["log-level", "loud", "--admin-socket", &socket]).await, Health::Down);
    assert_eq!(client.log_level().await.unwrap().filter, "info");
    server.kill().await;
}

//! `/debug/pprof/`: the paths of Go programs. Profiles that only Go's runtime has
//! are answered with status 501 and the alternative.

use std::io;

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

/// The page of contents.
const CONTENTS: &str = "\
Pages:

/debug/pprof/cmdline  the command line, its words separated by NUL
/debug/pprof/tasks    tasks and threads of the runtime
/debug/pprof/status   memory and threads, as the kernel counts them

There is no profiler in this program. For a CPU profile of a running process use
`perf record -g -p PID`; its symbols are in the binary.
";

/// The kernel's account of this process.
const STATUS: &str = "/proc/self/status";

/// The routes.
pub(super) fn routes() -> Router {
    Router::new()
        .route(
            "/debug/pprof",
            get(async || (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, "/debug/pprof/")])),
        )
        .route("/debug/pprof/", get(async || CONTENTS))
        .route("/debug/pprof/{what}", get(async |Path(what): Path<String>| page(&what)).post(absent))
}

async fn absent(Path(what): Path<String>) -> Response {
    missing(&what)
}

fn page(what: &str) -> Response {
    match what {
        "cmdline" => cmdline().into_response(),
        "tasks" => tasks().into_response(),
        "status" => status().unwrap_or_else(|error| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{STATUS}: {error}\n")).into_response()
        }),
        other => missing(other),
    }
}

/// The answer to a page that does not exist: Go's own profiles, or any other path.
fn missing(what: &str) -> Response {
    match what {
        "allocs" | "block" | "goroutine" | "heap" | "mutex" | "profile" | "symbol" | "threadcreate"
        | "trace" => {
            let text = format!("this program has no profile {what:?}; /debug/pprof/ lists its pages\n");
            (StatusCode::NOT_IMPLEMENTED, text).into_response()
        }
        _ => (StatusCode::NOT_FOUND, "unknown profile; /debug/pprof/ lists the pages\n").into_response(),
    }
}

fn cmdline() -> String {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join("\0")
}

fn tasks() -> String {
    let metrics = tokio::runtime::Handle::current().metrics();
    format!(
        "workers {}\ntasks {}\nwaiting for a worker {}\n",
        metrics.num_workers(),
        metrics.num_alive_tasks(),
        metrics.global_queue_depth()
    )
}

fn status() -> io::Result<Response> {
    let text = std::fs::read_to_string(STATUS)?;
    let chosen = text.lines().filter(|line| {
        ["VmSize", "VmHWM", "VmRSS", "RssAnon", "Threads"].iter().any(|name| line.starts_with(name))
    });
    Ok(chosen.map(|line| format!("{line}\n")).collect::<String>().into_response())
}

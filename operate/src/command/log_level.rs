//! `log-level`: the level of a running program's log, and another one for a while.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tunnel_program::args::go_duration;

use super::remedy;
use crate::Program;
use crate::client::Client;
use crate::output::{Form, about, print};
use crate::report::{Health, LogLevel, LogLevelRequest};

pub(super) const EXAMPLES: &str = "Examples:
  log-level                                 # the level, and the time for which it holds
  log-level info,tunnel=debug               # ten minutes of the tunnel's own debug lines
  log-level debug --for 1m                  # with those of its libraries, which are many
  log-level --reset                         # at once as the flags say

Exit codes: 0 done, 2 refused or no answer.";

/// Flags of `log-level`.
#[derive(Debug, Clone, Args)]
pub struct LogLevelArgs {
    /// Level (error, warn, info, debug, trace, off), or a filter as in --log-level. Shows the
    /// level if left out.
    #[arg(value_name = "FILTER")]
    filter: Option<String>,

    /// Time after which the level is that of the flags again; at most 24h.
    #[arg(long = "for", value_name = "DURATION", value_parser = go_duration, default_value = "10m", requires = "filter")]
    time: Duration,

    /// Go back to the level of the flags at once.
    #[arg(long, conflicts_with = "filter")]
    reset: bool,

    /// Admin socket of the running program. Without the flag
    /// /run/tunnel-server/admin.sock or /run/tunnel-agent/admin.sock.
    #[arg(long, value_name = "PATH")]
    admin_socket: Option<PathBuf>,

    /// Form of the output.
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t)]
    output: Form,
}

impl LogLevelArgs {
    pub(super) async fn run(self, program: Program) -> Health {
        let socket = self.admin_socket.as_deref().unwrap_or_else(|| Path::new(program.socket()));
        let client = Client::new(socket);
        let answer = match (self.filter, self.reset) {
            (None, false) => client.log_level().await,
            (filter, _) => {
                client.change_log_level(&LogLevelRequest { filter, seconds: self.time.as_secs() }).await
            }
        };
        match answer {
            Ok(level) => {
                print(&match self.output {
                    Form::Text => text(&level),
                    // Fails for maps with odd keys only, and there are none.
                    Form::Json => serde_json::to_string_pretty(&level).unwrap_or_default() + "\n",
                });
                Health::Ok
            }
            Err(error) => {
                print(&format!("{error}\n  {}\n", remedy(program, &error)));
                Health::Down
            }
        }
    }
}

fn text(level: &LogLevel) -> String {
    let LogLevel { filter, flags, left } = level;
    match left {
        None => format!("{filter}\n"),
        Some(left) => format!("{filter} for {}, then {flags}\n", about(*left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_says_when_it_ends() {
        let mut level = LogLevel { filter: "debug".to_owned(), flags: "info".to_owned(), left: Some(600) };
        assert_eq!(text(&level), "debug for 10m, then info\n");
        level.left = None;
        assert_eq!(text(&level), "debug\n");
    }
}

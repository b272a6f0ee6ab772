//! A Kubernetes API that reviews the agents' tokens: this program again, in the server's namespace. Lines of
//! standard input change its mood.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use tunnel_kube_fake::{FakeApi, Holder, Verb};

/// Life of a token: longer than a run, and than a jump of the clock.
const LASTS: Duration = Duration::from_secs(24 * 3600);

const NAMESPACE: &str = "kube-system";
const ACCOUNT: &str = "agent";
const AUDIENCE: &str = "server";

#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Files with the tokens that are good.
    #[arg(long, value_name = "FILE")]
    token: Vec<PathBuf>,
    /// File for the kubeconfig, written once the API listens.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
}

/// How the API answers reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mood {
    Well,
    /// With errors.
    Failing,
    /// With success, and a page for people.
    Babbling,
    /// With success, and a review without a verdict.
    Silent,
    /// Not until the mood changes.
    Late,
}

impl Mood {
    /// Those in which nobody new may be admitted. After a review without a verdict, which is remembered, other moods
    /// have to follow.
    pub(crate) const fn ill() -> [Self; 4] {
        [Self::Silent, Self::Failing, Self::Babbling, Self::Late]
    }

    /// The line of standard input.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn set(self, api: &FakeApi) {
        api.fail(Verb::Review, (self == Self::Failing).then_some((500, "InternalError")));
        api.lie(
            Verb::Review,
            match self {
                Self::Babbling => Some("<html>back soon</html>"),
                Self::Silent => Some(r#"{"kind":"TokenReview","metadata":{},"spec":{},"status":{}}"#),
                Self::Well | Self::Failing | Self::Late => None,
            },
        );
        api.hold(self == Self::Late);
    }
}

/// Writes a good token to a file.
pub(crate) fn write_token(path: &Path, id: &str) -> anyhow::Result<()> {
    fs::write(path, tunnel_kube_fake::token(id, AUDIENCE, LASTS)).with_context(|| path.display().to_string())
}

/// The server's flags.
pub(crate) fn server_flags(kubeconfig: &Path) -> [String; 6] {
    [
        format!("--kubeconfig={}", kubeconfig.display()),
        "--kubeconfig-qps=1000".to_owned(),
        "--kubeconfig-burst=1000".to_owned(),
        format!("--agent-namespace={NAMESPACE}"),
        format!("--agent-service-account={ACCOUNT}"),
        format!("--authentication-audience={AUDIENCE}"),
    ]
}

/// Serves until standard input ends.
pub(crate) async fn be_api(args: &ApiArgs) -> anyhow::Result<bool> {
    let api = FakeApi::new();
    for file in &args.token {
        let token = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let username = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        api.know(&token, Holder { username, audiences: vec![AUDIENCE.to_owned()], ..Holder::default() });
    }
    let served = api.serve().await?;
    // Whole as soon as it is there.
    let unfinished = args.kubeconfig.with_extension("new");
    fs::write(&unfinished, served.kubeconfig())?;
    fs::rename(&unfinished, &args.kubeconfig)?;
    let (tell, mut told) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // Fails when this program ends.
            let _ = tell.blocking_send(line);
        }
    });
    while let Some(line) = told.recv().await {
        Mood::from_str(&line, false).map_err(anyhow::Error::msg)?.set(&api);
    }
    Ok(true)
}

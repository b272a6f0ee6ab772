//! docs/DOCTOR.md is made of the table. `REGENERATE=1 cargo test -p tunnel-operate documents` writes it.

use super::*;
use crate::doctor::Side;

const HEAD: &str = "# doctor

`tunnel-server doctor` and `tunnel-agent doctor` check a tunnel and name a cure for each fault. They need the program's
admin socket (`--admin-socket`); checks that do not need the program also run without it. `doctor list` lists the
checks, `doctor explain ID` prints a section of this page. Exit codes: 0 well, 1 degraded (a warning, or a part fails),
2 down.

Each check ends as `ok`, `warn`, `FAIL` or `skip`; a skip names its reason. An id keeps its meaning for ever.

The checks are real. A server's doctor dials `doctor.invalid:0` through the frontend, which the server refuses by
itself, requests a container log that does not exist from up to five kubelets with the kube-apiserver's client
certificate, and dials the agents' port as an anonymous agent and as one of an unknown CA. An agent's doctor shakes
hands with every address of every server and greets it with the agent's own credentials; it leaves before the server
registers it, so running tunnels are not touched.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    for check in CHECKS {
        let Check { id, title, symptom, cause, cure, .. } = check;
        let of = match check.side {
            Side::Server => "tunnel-server",
            Side::Agent => "tunnel-agent",
            Side::Both => "tunnel-server, tunnel-agent",
        };
        page += &format!(
            "\n## {id} {title}\n\nOf: {of}.\n\n* Symptom: {symptom}\n* Cause: {cause}\n* Cure: {cure}\n"
        );
    }
    page
}

#[test]
fn documents_are_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/DOCTOR.md");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/DOCTOR.md is old: REGENERATE=1 cargo test -p tunnel-operate documents");
}

#[test]
fn an_explanation_has_symptom_cause_and_cure() {
    for check in CHECKS {
        let text = check.explain();
        assert!(text.starts_with(check.id), "{text}");
        for part in ["\nSymptom: ", "\nCause: ", "\nCure: "] {
            assert!(text.contains(part), "{text}");
        }
    }
}

//! docs/METRICS.md against the metrics that the programs register.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use prometheus::Registry;
use tunnel_program::metering::Described;

/// The metrics of both programs.
fn registered() -> Vec<Described> {
    let (_, server) = tunnel_server::metrics::Metrics::described(&Registry::new()).unwrap();
    let (_, agent) = tunnel_agent::metrics::Metrics::described(&Registry::new()).unwrap();
    [server, agent].concat()
}

/// A row of a table: type, labels and meaning.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    kind: String,
    labels: String,
    meaning: String,
}

/// The rows of all tables, by name.
fn documented() -> BTreeMap<String, Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, meaning] = cells[..] else { panic!("not four cells: {line}") };
        let row = Row { kind: kind.to_owned(), labels: labels.to_owned(), meaning: meaning.to_owned() };
        let name = name.trim_matches('`').to_owned();
        assert!(rows.insert(name, row).is_none(), "twice: {line}");
    }
    rows
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let mut documented = documented();
    for made in registered() {
        let labels: Vec<_> = made.labels.iter().map(|label| format!("`{label}`")).collect();
        let (kind, labels) = (made.kind, labels.join(", "));
        let line = format!("| `{}` | {kind} | {labels} | {} |", made.name, made.help);
        let row = documented.remove(&made.name).unwrap_or_else(|| panic!("not in docs/METRICS.md:\n{line}"));
        assert_eq!((row.kind.as_str(), row.labels.as_str()), (kind, labels.as_str()), "{}", made.name);
        if made.name.starts_with("konnectivity_") {
            // The help text is Konnectivity's; the document says the meaning here.
            assert!(row.meaning.len() > 10 && row.meaning != made.help, "{}: no meaning", made.name);
        } else {
            assert_eq!(
                row.meaning, made.help,
                "the help text is the documentation; the row would be\n{line}"
            );
        }
    }
    assert!(documented.is_empty(), "documented, but not there: {documented:?}");
}

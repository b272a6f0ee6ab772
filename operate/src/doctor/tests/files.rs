//! The kube-apiserver's pod, and paths in it.

use super::*;

#[test]
fn paths_of_the_container_are_found_on_the_host() {
    let pod = POD.replace("hostPath: {path: /run/tunnel}", "hostPath: {path: /srv}");
    let manifest = manifest(&pod).unwrap();
    assert_eq!(manifest.minor, Some(37));
    let on_host = |path: &str| manifest.on_host(Path::new(path)).map(|path| path.display().to_string());
    assert_eq!(on_host("/run/tunnel/a/b").as_deref(), Some("/srv/a/b"));
    assert_eq!(on_host("/run/tunnel").as_deref(), Some("/srv"));
    assert_eq!(on_host("/run/tunnels"), None);
}

#[test]
fn flags_are_read_in_every_form() {
    let text = "spec: {containers: [{command: [kube-apiserver, --a=1, --b, '2', -c=3, --d, --a=4, --e=]}]}";
    let manifest = manifest(text).unwrap();
    let flags = ["a", "b", "c", "d", "e"].map(|name| manifest.flag(name));
    assert_eq!(flags, [Some("4"), Some("2"), Some("3"), None, None]);
    assert_eq!(manifest.minor, None);
}

#[test]
fn other_files_are_no_pods() {
    for text in ["", "a: 1", "spec: {containers: []}", "["] {
        assert!(manifest(text).unwrap_err().contains("kube-apiserver.yaml"), "{text:?}");
    }
}

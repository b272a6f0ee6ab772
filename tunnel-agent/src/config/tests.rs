use super::*;

#[test]
fn server_lists() {
    let shown = |list: &str| {
        servers(list, 8091).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown("10.0.0.1"), "10.0.0.1:8091");
    assert_eq!(shown("a, b:9000,a"), "a:8091 b:9000");
    assert_eq!(shown("::1,[::2],[::3]:9000"), "[::1]:8091 [::2]:8091 [::3]:9000");
    for bad in ["", ",", "a:x", "a:0", ":80"] {
        assert!(servers(bad, 8091).is_err(), "{bad:?}");
    }
}

use super::*;
use crate::snapshot::Kind;
use proptest::prelude::*;
use std::time::SystemTime;

fn info() -> Info {
    let labels = [("foo", "bar"), ("a.b/c", "x,y"), ("empty", ""), ("dotted.key", "v"), ("uni", "é\n")];
    Info {
        name: "default/3/sha256:aa".into(),
        parent: "p-1".into(),
        kind: Kind::Active,
        created: SystemTime::UNIX_EPOCH,
        updated: SystemTime::UNIX_EPOCH,
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
    }
}

fn accepts(filters: &[&str]) -> bool {
    Filters::parse(filters).unwrap().accept(&info())
}

#[test]
fn selectors_match_as_containerds_do() {
    for yes in [
        "",
        "name",
        "labels.foo",
        "labels.empty",
        "labels.dotted.key==v",
        "kind==active",
        "kind!=committed",
        "name==default/3/sha256:aa",
        "name == default/3/sha256:aa",
        "parent==\"p-1\"",
        "labels.foo==bar,kind==active",
        "labels.foo==bar, kind==active",
        "labels.\"a.b/c\"==\"x,y\"",
        r#"labels."a.b/c"=="\x78\054\u0079""#,
        "labels.none!=x",
        "nonsense!=x",
        "name~=^default",
        "name~=/^default/",
        "name~=|sha256:[a-f]+$|",
        r#"labels.uni=="é\n""#,
        "labels.empty==\"\"",
        "labels.none~=^$",
    ] {
        assert!(accepts(&[yes]), "{yes}");
    }
    for no in [
        "labels",
        "labels.none",
        "nonsense",
        "labels.none==\"\"",
        "kind==Active",
        "kind==active,labels.foo==x",
        "name!=default/3/sha256:aa",
        "name~=^sha",
        "name~=\"(\"",
        "name~=*",
    ] {
        assert!(!accepts(&[no]), "{no}");
    }
    assert!(accepts(&[]) && accepts(&["kind==view", "kind==active"]) && !accepts(&["kind==view", "name==x"]));
}

#[test]
fn what_containerd_refuses_is_refused_with_the_place() {
    for (bad, why) in [
        ("name==", "at byte 6: expected value"),
        ("==x", "at byte 0: expected field"),
        ("name=x", "unsupported operator \"=\""),
        ("name===x", "unsupported operator \"===\""),
        ("name==/x/", "invalid quote"),
        ("name==\"x", "not terminated"),
        ("name==\"x\\", "not terminated"),
        ("name==\"\\q\"", "unquoting failed"),
        ("name==\"\\400\"", "unquoting failed"),
        ("name==a b", "unexpected input"),
        ("name==a,", "expected field"),
        ("name.", "expected field"),
        ("name x", "expected an operator"),
        ("name==.x", "expected value"),
        ("name==\0", "unexpected null"),
        ("%", "expected field"),
    ] {
        let error = Filters::parse(&[bad]).unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.to_string().contains(why), "{bad}: {error}");
    }
}

proptest! {
    #[test]
    fn any_string_is_parsed_or_refused(s in any::<String>(), t in "[a-z\"/|\\\\.,=!~ x0-9]{0,24}") {
        let _ = Filters::parse(&[s, t]).map(|f| f.accept(&info()));
    }

    #[test]
    fn a_quoted_value_equals_itself(v in "[^\u{0}\u{fffd}\n]{0,20}") {
        let quoted = v.replace('\\', "\\\\").replace('"', "\\\"");
        let mut info = info();
        info.name = v;
        let filter = format!("name==\"{quoted}\"");
        prop_assert!(Filters::parse(&[filter]).unwrap().accept(&info));
    }
}

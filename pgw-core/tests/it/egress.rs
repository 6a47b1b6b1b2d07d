//! What becomes of an address that somebody gives for an endpoint: the corpus in `egress.txt`, under several policies.
//! What a name resolves to is tested in pgw-http.

use std::collections::BTreeSet;

use pgw_core::webhook::egress::{AddressClass, EgressDenied, EgressPolicy, HttpScheme};
use pgw_core::webhook::{EndpointUrl, EndpointUrlError};
use url::Host;

/// One line of the corpus.
#[derive(Debug)]
struct Case {
    line: usize,
    /// The outcome and its detail.
    expected: (&'static str, &'static str),
    url: String,
}

fn corpus() -> Vec<Case> {
    let lines = include_str!("egress.txt").lines().enumerate();
    let cases = lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
    cases.map(|(index, text)| case(index + 1, text)).collect()
}

fn case(line: usize, text: &'static str) -> Case {
    let (outcome, rest) = text.split_once(' ').unwrap_or_else(|| panic!("line {line}"));
    let (detail, rest) = rest.trim_start().split_once(' ').unwrap_or_else(|| panic!("line {line}"));
    let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
    let url = strings.next().and_then(Result::ok).unwrap_or_else(|| panic!("line {line}: no URL"));
    assert!(!rest[strings.byte_offset()..].trim().is_empty(), "line {line} does not say why");
    Case { line, expected: (outcome, detail), url }
}

/// The outcome and its detail, in the words of the corpus.
fn judge(policy: &EgressPolicy, text: &str) -> (&'static str, String) {
    let url = match EndpointUrl::parse(text) {
        Ok(url) => url,
        Err(error) => return ("refused-url", refused(error).to_owned()),
    };
    if let Err(error) = policy.check_url(&url) {
        return ("denied", denied(error));
    }
    match url.url().host().expect("every endpoint has a host") {
        Host::Domain(name) => ("name", name.to_owned()),
        Host::Ipv4(addr) => ("allowed", addr.to_string()),
        Host::Ipv6(addr) => ("allowed", addr.to_string()),
    }
}

fn refused(error: EndpointUrlError) -> &'static str {
    match error {
        EndpointUrlError::Malformed => "malformed",
        EndpointUrlError::Scheme => "scheme",
        EndpointUrlError::UserInformation => "user-information",
        EndpointUrlError::Fragment => "fragment",
        other => panic!("the corpus has no word for {other:?}"),
    }
}

fn denied(error: EgressDenied) -> String {
    match error {
        EgressDenied::Scheme => "scheme".to_owned(),
        EgressDenied::Port => "port".to_owned(),
        EgressDenied::HostName => "host-name".to_owned(),
        EgressDenied::Address(class) => word(class).to_owned(),
        other => panic!("the corpus has no word for {other:?}"),
    }
}

fn word(class: AddressClass) -> &'static str {
    match class {
        AddressClass::Unspecified => "unspecified",
        AddressClass::Loopback => "loopback",
        AddressClass::Private => "private",
        AddressClass::LinkLocal => "link-local",
        AddressClass::CarrierNat => "carrier-nat",
        AddressClass::UniqueLocal => "unique-local",
        AddressClass::SiteLocal => "site-local",
        AddressClass::Multicast => "multicast",
        AddressClass::Broadcast => "broadcast",
        AddressClass::Documentation => "documentation",
        AddressClass::Benchmarking => "benchmarking",
        AddressClass::ProtocolAssignment => "protocol-assignment",
        AddressClass::EmbeddedIpv4 => "embedded-ipv4",
        AddressClass::Discard => "discard",
        AddressClass::SegmentRouting => "segment-routing",
        AddressClass::Reserved => "reserved",
        other => panic!("the corpus has no word for {other:?}"),
    }
}

#[test]
fn the_corpus_is_judged_as_it_says() {
    let policy = EgressPolicy::default();
    let mut differ = Vec::new();
    for Case { line, expected, url } in corpus() {
        let (outcome, detail) = judge(&policy, &url);
        if (outcome, &*detail) != expected {
            differ.push(format!("line {line}: {url:?} is {outcome} {detail}, not {expected:?}"));
        }
    }
    assert!(differ.is_empty(), "{} lines differ:\n{}", differ.len(), differ.join("\n"));
}

#[test]
fn the_corpus_is_large_has_no_line_twice_and_covers_everything() {
    let corpus = corpus();
    assert!(corpus.len() >= 600, "{} cases", corpus.len());
    let urls: BTreeSet<_> = corpus.iter().map(|case| &*case.url).collect();
    assert_eq!(urls.len(), corpus.len(), "a URL is there twice");
    let reasons: BTreeSet<_> = corpus.iter().map(|case| case.expected).collect();
    let of = |outcome| reasons.iter().filter(|reason| reason.0 == outcome).count();
    // Four errors that a line can hold (the fifth is a matter of length); three reasons and sixteen classes.
    assert_eq!((of("refused-url"), of("denied")), (4, 19), "{reasons:?}");
    assert!(corpus.iter().filter(|case| case.expected.0 == "allowed").count() >= 40);
    assert!(corpus.iter().filter(|case| case.expected.0 == "name").count() >= 40);
}

#[test]
fn what_was_let_through_stays_so_when_it_is_read_again() {
    // Endpoints are stored as text and read again: a second reading must not find another host in it.
    let policy = EgressPolicy::default();
    for Case { line, url, .. } in corpus() {
        if let Ok(parsed) = EndpointUrl::parse(&url) {
            let stored = parsed.as_str();
            assert_eq!(EndpointUrl::parse(stored), Ok(parsed.clone()), "line {line}");
            assert_eq!(judge(&policy, stored), judge(&policy, &url), "line {line}");
        }
    }
}

#[test]
fn a_hole_for_everything_lifts_the_denial_of_addresses_and_nothing_else() {
    let everything = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
    let policy = everything.into_iter().fold(EgressPolicy::default(), EgressPolicy::with_allowed);
    for Case { line, expected, url } in corpus() {
        let (outcome, detail) = judge(&policy, &url);
        let stays = matches!(
            expected,
            ("refused-url" | "name" | "allowed", _) | ("denied", "scheme" | "port" | "host-name")
        );
        if stays {
            assert_eq!((outcome, &*detail), expected, "line {line}");
        } else {
            assert!(matches!(outcome, "allowed" | "name"), "line {line}: {outcome} {detail}");
        }
    }
}

#[test]
fn without_tls_the_same_addresses_are_denied() {
    let policy = EgressPolicy::default().with_http(HttpScheme::Allowed);
    for Case { line, expected, url } in corpus() {
        let Some(rest) = url.strip_prefix("https://") else { continue };
        let (outcome, detail) = judge(&policy, &format!("http://{rest}"));
        assert_eq!((outcome, &*detail), expected, "line {line}");
    }
}

#[test]
fn the_length_is_counted_as_given() {
    let start = "https://hooks.example.com/";
    let fill = "x".repeat(EndpointUrl::LEN_MAX - start.len());
    assert!(EndpointUrl::parse(&format!("{start}{fill}")).is_ok());
    let long = format!("{start}{fill}x");
    assert_eq!(EndpointUrl::parse(&long), Err(EndpointUrlError::TooLong));
    // Spaces around an address would be dropped, and count.
    let spaces = format!("{}https://127.0.0.1/", " ".repeat(EndpointUrl::LEN_MAX));
    assert_eq!(EndpointUrl::parse(&spaces), Err(EndpointUrlError::TooLong));
}

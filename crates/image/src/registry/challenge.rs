//! What a registry wants to see before it answers: the header `WWW-Authenticate` (RFC 9110, 11.6.1).

/// One way to show who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A name and a password.
    Basic,
    /// A token of somebody else.
    Bearer(Bearer),
}

/// Where a token is had.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bearer {
    /// A URL.
    pub(crate) realm: String,
    /// What the registry calls itself there.
    pub(crate) service: Option<String>,
    /// What may be done with it.
    pub(crate) scope: Option<String>,
}

/// Reads one header. Schemes that nobody uses with registries are `None`.
pub(crate) fn parse(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut bearer = Bearer::default();
    let mut rest = rest;
    while let Some((key, value, after)) = parameter(rest) {
        match key.to_ascii_lowercase().as_str() {
            "realm" => bearer.realm = value,
            "service" => bearer.service = Some(value),
            "scope" => bearer.scope = Some(value),
            _ => {}
        }
        rest = after;
    }
    (!bearer.realm.is_empty()).then_some(Challenge::Bearer(bearer))
}

/// The next `key=value` or `key="value"`, and what follows its comma.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (key, rest) = text.split_once('=')?;
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => quoted_string(quoted)?,
        None => {
            let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
            (value.trim().to_owned(), rest)
        }
    };
    Some((key.trim(), value, rest))
}

/// Up to the quote that no backslash precedes, and what follows it.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((value, characters.as_str())),
            '\\' => value.push(characters.next()?),
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_registries_send_is_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull,push""#;
        assert_eq!(
            parse(hub),
            Some(Challenge::Bearer(Bearer {
                realm: "https://auth.docker.io/token".to_owned(),
                service: Some("registry.docker.io".to_owned()),
                scope: Some("repository:library/alpine:pull,push".to_owned()),
            }))
        );
        assert_eq!(parse(r#"Basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(parse("basic"), Some(Challenge::Basic));
        let odd = parse(r#"bearer Realm = http://x , error="a\"b", service=y"#);
        assert!(
            matches!(odd, Some(Challenge::Bearer(Bearer { realm, service, .. }))
            if realm == "http://x" && service.as_deref() == Some("y"))
        );
        for none in [
            "",
            "Bearer",
            "Negotiate x",
            r#"Bearer realm="x"#,
            "Bearer scope=x",
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_not(text in "(Bearer )?.{0,60}", tail in "[a-z=,\"\\\\ ]{0,40}") {
            let _ = parse(&text);
            let _ = parse(&format!("Bearer {tail}"));
        }
    }
}

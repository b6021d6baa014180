use super::*;

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

fn pin() -> String {
    "ab".repeat(32)
}

fn samples() -> Vec<TargetCode> {
    let server = url(&format!("zoneward://nas:7443/#{}", pin()));
    let token = Credentials::of([("token", "zts_0123456789abcdef_hunter2")]);
    let sftp = url("sftp://nas/~/zone");
    let login = Credentials::of([("user", "ann"), ("host_key", "ssh-ed25519 AAAA"), ("private_key", "hunter2\n")]);
    vec![
        TargetCode::plain(&url("file:///mnt/b%20c"), None),
        TargetCode::plain(&server, Some(&token)),
        TargetCode::with_credentials(&server, &token),
        TargetCode::plain(&sftp, Some(&login)),
        TargetCode::with_credentials(&sftp, &login),
    ]
}

#[test]
fn golden_texts() {
    let golden = include_str!("golden.txt");
    let now: String = samples().iter().map(|c| format!("{}\n", *c.to_text())).collect();
    assert_eq!(now, golden, "a text that was shown once is taken in for ever");
    for (line, code) in golden.lines().zip(samples()) {
        assert_eq!(TargetCode::parse(line), Ok(code));
    }
}

#[test]
fn a_code_without_credentials_carries_what_the_server_is_known_by_and_no_secret() {
    for code in samples() {
        let text = code.to_text();
        let raw = base32::decode(&text[PREFIX.len()..]).unwrap();
        let tells = raw.windows(7).any(|w| w == b"hunter2");
        assert_eq!(tells, code.secret && code.credentials.names().any(|n| n == "token" || n == "private_key"));
        assert!(!format!("{code:?}").contains("hunter2"));
    }
    let [.., sftp, _] = &samples()[..] else { unreachable!() };
    assert_eq!(sftp.credentials, Credentials::of([("host_key", "ssh-ed25519 AAAA")]));
    // A pin that was kept with the token is in the URL.
    let kept = Credentials::of([("token", "t"), ("pin", &pin())]);
    let code = TargetCode::plain(&url("zoneward://nas/"), Some(&kept));
    assert_eq!(code.url.to_string(), format!("zoneward://nas:7443/#{}", pin()));
}

#[test]
fn capitals_and_white_space_do_not_matter() {
    for code in samples() {
        let text = code.to_text();
        let (a, b) = text.split_at(text.len() / 2);
        for spelling in [text.to_uppercase(), format!(" {}\n", *text), format!("{a}\r\n  {b}")] {
            assert_eq!(TargetCode::parse(&spelling).as_ref(), Ok(&code));
            assert!(is_code(&spelling));
        }
    }
}

#[test]
fn every_changed_character_and_every_cut_is_refused() {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567 -1=";
    for code in samples() {
        let text = code.to_text();
        for at in 0..text.len() {
            for to in LETTERS {
                let mut bent = text.as_bytes().to_vec();
                if bent[at] == *to {
                    continue;
                }
                bent[at] = *to;
                let e = TargetCode::parse(std::str::from_utf8(&bent).unwrap()).unwrap_err();
                let fits = match e {
                    CodeError::Prefix | CodeError::Unknown => at < PREFIX.len(),
                    CodeError::Character { at: told } => told == at,
                    // A blank counts as nothing: what is left is too short, or has moved.
                    CodeError::Checksum => at >= PREFIX.len() || *to == b' ',
                    _ => false,
                };
                assert!(fits || (*to == b' ' && at < PREFIX.len()), "{at} {} {e:?}", char::from(*to));
            }
            assert!(TargetCode::parse(&text[..at]).is_err(), "cut at {at}");
        }
        // Two neighbours that changed places.
        for at in PREFIX.len()..text.len() - 1 {
            let mut bent = text.as_bytes().to_vec();
            bent.swap(at, at + 1);
            let bent = String::from_utf8(bent).unwrap();
            assert!(bent == **text || TargetCode::parse(&bent) == Err(CodeError::Checksum), "{at}");
        }
    }
}

/// A text whose checksum is right.
fn text_of(body: &[u8]) -> String {
    let mut text = PREFIX.to_owned();
    base32::encode(&[body, &checksum(body)].concat(), &mut text);
    text
}

#[test]
fn what_is_inside_is_looked_at_too() {
    let body = |kind: u8, url: &str, more: &str| {
        let mut b = vec![kind];
        b.extend((url.len() as u16).to_le_bytes());
        b.extend(url.as_bytes());
        b.extend(more.as_bytes());
        TargetCode::parse(&text_of(&b))
    };
    let damaged = |r: Result<TargetCode, CodeError>| matches!(r, Err(CodeError::Damaged(_)));
    assert!(body(0, "file:///x", "").is_ok());
    assert_eq!(body(2, "file:///x", ""), Err(CodeError::Unknown));
    assert!(damaged(body(0, "file:///x/", "")), "one spelling");
    assert!(damaged(body(0, "s3://nas:9000/bucket", r#"{"secret_access_key":"hunter2"}"#)));
    assert!(body(1, "s3://nas:9000/bucket", r#"{"secret_access_key":"hunter2"}"#).is_ok());
    assert!(damaged(body(1, "file:///x", "hunter2")));
    assert!(matches!(body(0, "s3://ann:hunter2@h/b", ""), Err(CodeError::Url(UrlError::Credentials))));
    assert!(matches!(body(0, "", ""), Err(CodeError::Url(UrlError::Empty))));
    for short in [&b""[..], b"\0", b"\0\0", b"\0\x05\0file"] {
        assert!(damaged(TargetCode::parse(&text_of(short))), "{short:?}");
    }
    assert!(damaged(TargetCode::parse(&text_of(b"\0\x02\0\xff\xfe"))));
    assert_eq!(TargetCode::parse("zwt1-"), Err(CodeError::Checksum));
    assert_eq!(TargetCode::parse("zwt2-aaaa"), Err(CodeError::Unknown));
    assert_eq!(TargetCode::parse("zw1-aaaa"), Err(CodeError::Prefix));
    assert_eq!(TargetCode::parse(&"a".repeat(CODE_TEXT_MAX + 1)), Err(CodeError::TooLong));
    for other in ["", "zw", "zwt", "zwt-", "zwt_1-x", "zwtx-", "/mnt/zwt1-x", "s3://h/b", "\u{1f600}"] {
        assert!(!is_code(other), "{other}");
    }
    assert!(is_code("ZWT1-") && is_code("zwt12-x"));
}

#[test]
fn the_largest_code_fits() {
    let long = url(&format!("file:///{}", "%FF".repeat(4000)));
    let code = TargetCode::plain(&long, None);
    assert_eq!(TargetCode::parse(&code.to_text()), Ok(code));
    let value = "x".repeat(CREDENTIALS_LEN_MAX - 20);
    let code = TargetCode::with_credentials(&long, &Credentials::of([("token", value.as_str())]));
    let text = code.to_text();
    assert!(text.len() <= CODE_TEXT_MAX, "{}", text.len());
    assert_eq!(TargetCode::parse(&text), Ok(code));
}

#[test]
fn any_bytes_give_an_answer() {
    let mut x = 88_172_645_463_325_252u64;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    for code in samples() {
        let text = code.to_text();
        let raw = base32::decode(&text[PREFIX.len()..]).unwrap();
        let body = &raw[..raw.len() - CHECK_LEN];
        for _ in 0..2_000 {
            // Bytes that are bent and whose checksum is right all the same.
            let mut bent = body.to_vec();
            let at = next() as usize % bent.len();
            bent[at] = next() as u8;
            bent.truncate(bent.len() - if next() % 4 == 0 { next() as usize % bent.len() } else { 0 });
            if let Ok(found) = TargetCode::parse(&text_of(&bent)) {
                assert_eq!(TargetCode::parse(&found.to_text()), Ok(found));
            }
        }
    }
}

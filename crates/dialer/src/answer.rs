//! What a name server's answer is worth.

/// A header's length (RFC 1035, section 4.1.1).
pub(crate) const HEADER: usize = 12;

/// Response codes (RFC 1035, section 4.1.1). With the last two, another server may know more.
const SUCCESS: u8 = 0;
const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;
const REFUSED: u8 = 5;

/// What an answer is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It is no answer to this question.
    Foreign,
    /// Another server may know more.
    Poor,
    /// It settles the matter.
    Good,
}

/// What `answer` is worth for `question`, both in the form of RFC 1035, section 4.
#[must_use]
pub fn worth(question: &[u8], answer: &[u8]) -> Worth {
    let heads = [question, answer].map(<[u8]>::first_chunk::<HEADER>);
    let [Some([a, b, ..]), Some([c, d, flags, code, ..])] = heads else {
        return Worth::Foreign;
    };
    let code = code & 0x0f;
    let is_about_it = match (asked_text(question), asked_text(answer)) {
        (Some(asked), Some(repeated)) => asked.eq_ignore_ascii_case(repeated),
        // A server that did not understand a question need not repeat it.
        (Some(_), None) => ![SUCCESS, NO_SUCH_NAME].contains(&code),
        (None, _) => true,
    };
    let is_response = flags & 0x80 != 0;
    match code {
        _ if (a, b) != (c, d) || !is_response || !is_about_it => Worth::Foreign,
        SERVER_FAILURE | REFUSED => Worth::Poor,
        _ => Worth::Good,
    }
}

/// The question section of a message that has exactly one question: name, type and class (RFC
/// 1035, section 4.1.2).
fn asked_text(message: &[u8]) -> Option<&[u8]> {
    (message.get(4..6)? == [0, 1]).then_some(())?;
    let section = message.get(HEADER..)?;
    let mut end = 0_usize;
    loop {
        let length = *section.get(end)?;
        end = end.checked_add(1)?.checked_add(length.into())?;
        match length {
            0 => return section.get(..end.checked_add(4)?),
            // A longer one would be a pointer, to nothing before the first name.
            1..64 => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with one question.
    fn message(id: u16, response: u8, code: u8, name: &[u8]) -> Vec<u8> {
        let head = [response << 7, code, 0, 1, 0, 0, 0, 0, 0, 0];
        [&id.to_be_bytes(), &head[..], name, &[0, 1, 0, 1]].concat()
    }

    const NAME: &[u8] = b"\x07example\x03org\x00";

    #[test]
    fn an_answer_has_the_question_s_identifier_and_text() {
        let question = message(7, 0, 0, NAME);
        let worth = |answer: &[u8]| worth(&question, answer);
        assert_eq!(worth(&message(7, 1, 0, NAME)), Worth::Good);
        assert_eq!(
            worth(&message(7, 1, 0, b"\x07EXAMPLE\x03org\x00")),
            Worth::Good
        );
        assert_eq!(worth(&message(8, 1, 0, NAME)), Worth::Foreign);
        assert_eq!(worth(&message(7, 0, 0, NAME)), Worth::Foreign);
        assert_eq!(
            worth(&message(7, 1, 0, b"\x07exomple\x03org\x00")),
            Worth::Foreign
        );
        assert_eq!(worth(&message(7, 1, 0, b"\x07example\x00")), Worth::Foreign);
        assert_eq!(worth(&question[..11]), Worth::Foreign);
        assert_eq!(worth(&[]), Worth::Foreign);
    }

    #[test]
    fn servers_that_fail_or_refuse_give_poor_answers_and_no_such_name_is_a_good_one() {
        let question = message(7, 0, 0, NAME);
        for (code, expected) in [(2, Worth::Poor), (5, Worth::Poor), (3, Worth::Good)] {
            assert_eq!(worth(&question, &message(7, 1, code, NAME)), expected);
        }
        // FORMERR without the question.
        let bare = [0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(worth(&question, &bare), Worth::Good);
        for code in [0, 3] {
            let empty = [0, 7, 0x80, code, 0, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(worth(&question, &empty), Worth::Foreign);
        }
    }

    #[test]
    fn a_name_that_does_not_end_or_points_somewhere_is_no_text() {
        for name in [&b"\x07exam"[..], b"\x3f", b"\xc0\x0c", b""] {
            let mut text = message(7, 0, 0, name);
            text.truncate(HEADER + name.len());
            assert_eq!(asked_text(&text), None, "{name:?}");
        }
        let many = [0, 7, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(asked_text(&many), None);
    }
}

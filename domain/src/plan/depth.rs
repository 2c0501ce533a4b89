//! How deep a text nests, seen before the parser builds it: each part of a dotted key is a table of
//! its own, so inline tables of dotted keys make thousands of levels out of a few lines, and
//! whatever walks them (even to drop them) would run out of stack.

/// No plan needs more than four; the parser's own limits (80 brackets, 80 parts of a key) multiply.
const DEEPEST: usize = 32;

/// Where the text nests deeper than any plan does.
pub(super) fn too_deep(source: &str) -> Option<usize> {
    // The closing bracket that each level waits for, and the dots seen on it since its last comma.
    let mut levels: Vec<(u8, usize)> = vec![(b'\n', 0)];
    let mut at = 0;
    while let Some(byte) = source.as_bytes().get(at).copied() {
        match byte {
            b'[' => levels.push((b']', 0)),
            b'{' => levels.push((b'}', 0)),
            b'\n' if levels.len() > 1 => {}
            b'.' => levels.last_mut()?.1 += 1,
            b',' | b'\n' => levels.last_mut()?.1 = 0,
            b']' | b'}' if levels.len() > 1 && levels.last()?.0 == byte => drop(levels.pop()),
            _ => {}
        }
        if levels.iter().map(|(_, dots)| dots + 1).sum::<usize>() > DEEPEST {
            return Some(at);
        }
        at += token_length(source.as_bytes().get(at..)?);
    }
    None
}

/// How long the first token is: the parser's own rules (toml_parser, lexer), as far as strings and
/// comments hide brackets and dots.
fn token_length(rest: &[u8]) -> usize {
    let until = |from: usize, stop: &dyn Fn(u8) -> bool| {
        rest.iter().skip(from).position(|byte| stop(*byte)).map_or(rest.len(), |length| from + length)
    };
    match rest {
        [b'"', b'"', b'"', ..] | [b'\'', b'\'', b'\'', ..] => long_string(rest),
        [b'\'', ..] => closed(rest, until(1, &|byte| matches!(byte, b'\'' | b'\n')), b'\''),
        [b'"', ..] => {
            let mut at = 1;
            loop {
                at = until(at, &|byte| matches!(byte, b'"' | b'\\' | b'\n'));
                match rest.get(at..) {
                    Some([b'\\', b'\\' | b'"', ..]) => at += 2,
                    Some([b'\\', ..]) => at += 1,
                    _ => return closed(rest, at, b'"'),
                }
            }
        }
        [b'#', ..] => until(0, &|byte| matches!(byte, b'\r' | b'\n')),
        [b'.' | b'=' | b',' | b'[' | b']' | b'{' | b'}' | b' ' | b'\t' | b'\r' | b'\n', ..] => 1,
        // A bare word; quotes inside it begin no string.
        _ => until(1, &|byte| b".=,[]{} \t#\r\n".contains(&byte)),
    }
}

/// The length with the closing quote, where there is one.
fn closed(rest: &[u8], at: usize, quote: u8) -> usize {
    if rest.get(at) == Some(&quote) { at + 1 } else { at }
}

fn long_string(rest: &[u8]) -> usize {
    let Some(&quote) = rest.first() else { return 0 };
    let mut at = 3;
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        match tail {
            [b'\\', b'\\' | b'"', ..] if quote == b'"' => at += 2,
            [a, b, c, ..] if [a, b, c] == [&quote; 3] => {
                // One or two quotes may stand right before the closing three.
                let more = tail.iter().skip(3).take(2).take_while(|byte| **byte == quote).count();
                return at + 3 + more;
            }
            _ => at += 1,
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_dots_in_strings_and_comments_are_no_nesting() {
        let deep = "[{".repeat(40) + &"a.".repeat(40);
        for text in [
            format!("question = \"\\\"{deep}\""),
            format!("question = '\\{deep}'"),
            format!("question = \"\"\"\n{deep}\"\\\"\"\"{deep}\"\"\"\"\"\nx = 1"),
            format!("question = '''{deep}\n{deep}''''"),
            format!("x = 1 # {deep}"),
            "clients.hosts = 1\n".repeat(100),
            "x = [1.5, 2.5, [1.5], {a.b = 1.5}]\n".repeat(100),
        ] {
            assert_eq!(too_deep(&text), None, "{text}");
        }
    }

    #[test]
    fn nesting_is_seen_behind_whatever_stands_before_it() {
        let deep = "x = ".to_owned() + &"{a.a.a.a = ".repeat(10);
        for before in
            ["", "question = \"open\n", "it's\n", "# '''\n", "x = ]}]}\n", "\"a\\\\\" = 1\n", "''''''\n"]
        {
            assert!(too_deep(&format!("{before}{deep}")).is_some(), "{before}");
        }
        assert!(too_deep(&"a.".repeat(40)).is_some());
    }
}

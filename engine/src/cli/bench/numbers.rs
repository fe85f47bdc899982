//! Lists of numbers as llama-bench spells them.

/// What one entry of a list of numbers stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(Vec<usize>);

/// A number or a range: `512`, `0-8192+4096`, `512-8192*2`.
pub fn numbers(text: &str) -> Result<Numbers, String> {
    const MOST: usize = 1000;
    let number = |text: &str| {
        let number = text.trim().parse::<usize>().ok().filter(|n| *n <= 1 << 24);
        number.ok_or_else(|| format!("`{text}` is no number from 0 to {}", 1 << 24))
    };
    let Some((first, rest)) = text.split_once('-') else {
        return Ok(Numbers(vec![number(text)?]));
    };
    let (last, step, is_factor) = match (rest.split_once('+'), rest.split_once('*')) {
        (Some((last, step)), _) => (last, number(step)?, false),
        (None, Some((last, factor))) => (last, number(factor)?, true),
        (None, None) => (rest, 1, false),
    };
    let (first, last) = (number(first)?, number(last)?);
    if step == 0 || is_factor && (step == 1 || first == 0) {
        return Err(format!("`{text}` never ends; give a step such as {first}-{last}+512"));
    }
    let next = |at: &usize| Some(if is_factor { at * step } else { at + step });
    let range: Vec<usize> = std::iter::successors(Some(first), next)
        .take_while(|at| *at <= last)
        .take(MOST + 1)
        .collect();
    match range.len() {
        0 => Err(format!("`{text}` is empty: {first} is more than {last}")),
        len if len > MOST => Err(format!("`{text}` has more than {MOST} numbers; give a step")),
        _ => Ok(Numbers(range)),
    }
}

/// A prompt and its answer: `512,128`.
pub fn pair(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once(',').and_then(|(prompt, answer)| {
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| (1..=1 << 24).contains(n));
        Some((number(prompt)?, number(answer)?))
    });
    numbers.ok_or_else(|| format!("`{text}`: a prompt and its answer are two numbers from 1 up, such as 512,128"))
}

/// The numbers of a list, or what is meant when none is given.
pub fn all(given: &[Numbers], default: &[usize]) -> Vec<usize> {
    if given.is_empty() {
        return default.to_vec();
    }
    given.iter().flat_map(|numbers| numbers.0.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        let table: [(&str, Option<&[usize]>); 12] = [
            ("512", Some(&[512])),
            ("0", Some(&[0])),
            ("1-4", Some(&[1, 2, 3, 4])),
            ("0-8192+4096", Some(&[0, 4096, 8192])),
            ("512-4096*2", Some(&[512, 1024, 2048, 4096])),
            ("5-5", Some(&[5])),
            ("5-4", None),
            ("0-8*2", None),
            ("1-8+0", None),
            ("0-100000", None),
            ("many", None),
            ("99999999999", None),
        ];
        for (text, expected) in table {
            let found = numbers(text).ok().map(|numbers| numbers.0);
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert_eq!(pair("512,128"), Ok((512, 128)));
        for text in ["512", "512,0", "a,b", "1,2,3"] {
            assert!(pair(text).is_err(), "{text}");
        }
    }
}

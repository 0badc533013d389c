//! An example as the text that is trained on, and where its answers stand in it.

use std::ops::Range;

/// Inputs that only say that there is none, stripped and lower-cased.
const NO_INPUT: [&str; 6] = ["no input", "noinput", "<no input>", "<noinput>", "no input.", "no input required"];

/// Below this many bytes an input may be one of `NO_INPUT`, whatever its case.
const MOST_SENTINEL_BYTES: usize = 64;

const ALPACA_PLAIN: &str = "Below is an instruction that describes a task. \
                            Write a response that appropriately completes the request.\n\n";
const ALPACA_WITH_INPUT: &str = "Below is an instruction that describes a task, paired with an input that provides \
                                 further context. Write a response that appropriately completes the request.\n\n";

/// How an example becomes text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Template {
    /// The published NUGGETS template, with which examples are scored.
    Nuggets,
    /// The prompts that Stanford Alpaca was trained with.
    Alpaca,
}

impl std::str::FromStr for Template {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        match name {
            "nuggets" => Ok(Self::Nuggets),
            "alpaca" => Ok(Self::Alpaca),
            _ => Err(()),
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, Copy)]
pub struct Turn<'a> {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'a str,
    /// What is said.
    pub content: &'a str,
    /// Whether training takes its loss on this turn.
    pub trained: bool,
}

/// What of an example is rendered; a conversation where there are messages.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fields<'a> {
    /// What is asked.
    pub instruction: Option<&'a str>,
    /// What it is asked about.
    pub input: Option<&'a str>,
    /// The answer.
    pub output: Option<&'a str>,
    /// The turns of a conversation.
    pub messages: Option<&'a [Turn<'a>]>,
}

/// A rendered example. Made once and used for many.
#[derive(Debug, Clone, Default)]
pub struct Rendered {
    /// The whole text; it ends with the last answer.
    pub text: String,
    /// Bytes of each answer that is trained, in order.
    pub answers: Vec<Range<usize>>,
}

impl Rendered {
    /// Renders an example in place of the one before; false when it has no answer to train.
    pub fn render(&mut self, template: Template, fields: &Fields<'_>) -> bool {
        self.text.clear();
        self.answers.clear();
        match fields.messages {
            Some(turns) => self.conversation(template, turns),
            None => self.exchange(template, fields),
        }
    }

    fn exchange(&mut self, template: Template, fields: &Fields<'_>) -> bool {
        let [instruction, input, output] =
            [fields.instruction, fields.input, fields.output].map(Option::unwrap_or_default);
        if strip(output).is_empty() {
            return false;
        }
        let given = strip(input);
        let has_input = !given.is_empty() && !says_no_input(given);
        match template {
            Template::Nuggets => {
                self.add(&["Instruction:\n", strip(instruction), "\n"]);
                if has_input {
                    self.add(&["Input:\n", given, "\n"]);
                }
                self.add(&["Response:\n"]);
                self.answer(strip(output));
            }
            Template::Alpaca => {
                let opening = if has_input { ALPACA_WITH_INPUT } else { ALPACA_PLAIN };
                self.add(&[opening, "### Instruction:\n", instruction, "\n\n"]);
                if has_input {
                    self.add(&["### Input:\n", input, "\n\n"]);
                }
                self.add(&["### Response:"]);
                self.answer(output);
            }
        }
        true
    }

    fn conversation(&mut self, template: Template, turns: &[Turn<'_>]) -> bool {
        let is_answer = |turn: &Turn<'_>| turn.role == "assistant" && turn.trained;
        let Some(last) = turns.iter().rposition(is_answer) else { return false };
        if strip(turns[last].content).is_empty() {
            return false;
        }
        if template == Template::Alpaca {
            self.add(&[ALPACA_PLAIN]);
        }
        for (place, turn) in turns[..=last].iter().enumerate() {
            let content = strip(turn.content);
            // The headings of answers, where the template ends; Alpaca's has no line of its own.
            let answers = turn.role == "assistant";
            match template {
                Template::Nuggets => self.add(&[&heading(turn.role), ":\n"]),
                Template::Alpaca => self.add(&["### ", &heading(turn.role), if answers { ":" } else { ":\n" }]),
            }
            if is_answer(turn) && !content.is_empty() {
                self.answer(content);
            } else {
                self.add(&[content]);
            }
            if place < last {
                self.add(&[if template == Template::Alpaca { "\n\n" } else { "\n" }]);
            }
        }
        true
    }

    fn add(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }

    fn answer(&mut self, text: &str) {
        let start = self.text.len();
        self.text.push_str(text);
        self.answers.push(start..self.text.len());
    }
}

/// What stands over a turn.
fn heading(role: &str) -> std::borrow::Cow<'_, str> {
    match role {
        "system" => "System".into(),
        "user" => "Instruction".into(),
        "assistant" => "Response".into(),
        "tool" => "Tool".into(),
        _ => {
            let mut letters = role.chars();
            let first = letters.next().into_iter().flat_map(char::to_uppercase);
            first.chain(letters.as_str().to_lowercase().chars()).collect::<String>().into()
        }
    }
}

fn says_no_input(given: &str) -> bool {
    given.len() <= MOST_SENTINEL_BYTES && NO_INPUT.contains(&given.to_lowercase().as_str())
}

/// Text without the white space at its ends: what Python's `str.strip` takes for such, which has four separators more
/// than Unicode.
fn strip(text: &str) -> &str {
    text.trim_matches(|letter: char| letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: Template, fields: &Fields<'_>) -> Option<(String, Vec<String>)> {
        let mut made = Rendered::default();
        made.render(template, fields).then(|| {
            let answers = made.answers.iter().map(|answer| made.text[answer.clone()].to_owned()).collect();
            (made.text.clone(), answers)
        })
    }

    fn fields<'a>(instruction: &'a str, input: &'a str, output: &'a str) -> Fields<'a> {
        Fields { instruction: Some(instruction), input: Some(input), output: Some(output), messages: None }
    }

    #[test]
    fn nuggets_strips_every_field() {
        let (text, answers) = rendered(Template::Nuggets, &fields(" Add.\u{1f}", "\u{a0}1, 2\n", " 3 ")).unwrap();
        assert_eq!(text, "Instruction:\nAdd.\nInput:\n1, 2\nResponse:\n3");
        assert_eq!(answers, ["3"]);
    }

    #[test]
    fn an_input_that_says_there_is_none_is_left_out() {
        for nothing in ["", "  ", "No input", " <NOINPUT> ", "No Input Required"] {
            let (text, _) = rendered(Template::Nuggets, &fields("Add.", nothing, "3")).unwrap();
            assert_eq!(text, "Instruction:\nAdd.\nResponse:\n3");
            let (text, _) = rendered(Template::Alpaca, &fields("Add.", nothing, "3")).unwrap();
            assert_eq!(
                text,
                "Below is an instruction that describes a task. Write a response that appropriately completes the \
                 request.\n\n### Instruction:\nAdd.\n\n### Response:3"
            );
        }
    }

    #[test]
    fn alpaca_keeps_its_fields_as_they_are() {
        let (text, answers) = rendered(Template::Alpaca, &fields("Add. ", " 1, 2", " 3\n")).unwrap();
        assert_eq!(
            text,
            "Below is an instruction that describes a task, paired with an input that provides further context. \
             Write a response that appropriately completes the request.\n\n### Instruction:\nAdd. \n\n### Input:\n 1, \
             2\n\n### Response: 3\n"
        );
        assert_eq!(answers, [" 3\n"]);
    }

    #[test]
    fn a_row_without_an_answer_is_none() {
        for template in [Template::Nuggets, Template::Alpaca] {
            assert_eq!(rendered(template, &fields("Add.", "", " \n")), None);
            let turns = [Turn { role: "user", content: "Hi", trained: true }];
            assert_eq!(rendered(template, &Fields { messages: Some(&turns), ..Fields::default() }), None);
        }
    }

    #[test]
    fn every_trained_turn_of_a_conversation_is_an_answer() {
        let turn = |role, content, trained| Turn { role, content, trained };
        let turns = [
            turn("system", "Be kind.", false),
            turn("user", "Hi ", false),
            turn("assistant", " Hello", true),
            turn("user", "Sum?", false),
            turn("assistant", "Hm", false),
            turn("tool", "3", false),
            turn("assistant", "3", true),
            turn("user", "Bye", false),
        ];
        let fields = Fields { messages: Some(&turns), ..Fields::default() };
        let (text, answers) = rendered(Template::Nuggets, &fields).unwrap();
        assert_eq!(
            text,
            "System:\nBe kind.\nInstruction:\nHi\nResponse:\nHello\nInstruction:\nSum?\nResponse:\nHm\nTool:\n3\n\
             Response:\n3"
        );
        assert_eq!(answers, ["Hello", "3"]);
        let (text, answers) = rendered(Template::Alpaca, &fields).unwrap();
        assert!(text.ends_with("### Response:Hm\n\n### Tool:\n3\n\n### Response:3"), "{text}");
        assert!(text.contains("request.\n\n### System:\nBe kind.\n\n### Instruction:\nHi\n\n### Response:Hello\n\n"));
        assert_eq!(answers, ["Hello", "3"]);
    }
}

use std::sync::{Arc, LazyLock};

use super::*;
use crate::prompt::constraint::{Grammars, HeaderTables};
use crate::prompt::conversation::{ThinkingLimits, ThinkingStop};
use crate::prompt::harmony::parser::{EventKind, Parser, ParserRules, ParserStart};
use crate::prompt::tokenizer::Tokenizer;

fn tables() -> &'static HeaderTables {
    static LOADED: LazyLock<HeaderTables> = LazyLock::new(|| {
        let json = include_bytes!("../../../models/tiny/tokenizer.json");
        let tokenizer = Tokenizer::from_json("tokenizer.json", json, 2_048).unwrap();
        HeaderTables::new(Arc::new(Grammars::new(Arc::new(tokenizer))))
    });
    &LOADED
}

fn table(functions: &[&str]) -> Arc<HeaderTable> {
    tables().table(&functions.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &[])
}

/// A sequence that is told what a scheduler tells.
struct Told {
    table: Arc<HeaderTable>,
    thinking: ThinkingBounds,
    masks: Masks,
    outlook: MaskOutlook,
    said: Vec<TokenId>,
    told_count: usize,
}

impl Told {
    fn of(table: &Arc<HeaderTable>, thinking_max_tokens: u32) -> Self {
        let limits = ThinkingLimits { budget_tokens: Some(thinking_max_tokens), ..ThinkingLimits::default() };
        let thinking = ThinkingBounds::new(limits, u32::MAX, false, table.grammars.tokenizer());
        let masks = table.masks(&ParserStart::AssistantHeader, thinking.clone());
        Self { table: Arc::clone(table), thinking, outlook: masks.0.outlook(), masks, said: Vec::new(), told_count: 0 }
    }

    fn allowed(&self) -> Allowed {
        self.masks.0.allowed(self.said.len() as u32)
    }

    fn say(&mut self, token: TokenId) {
        assert!(self.allowed().has(token), "{:?} after {:?}", self.spelt(&[token]), self.spelt(&self.said));
        let (index, before) = (self.said.len() as u32, self.outlook);
        let covered = before.covers(index + 1).then(|| self.allowed());
        if before.heeds(index, token) {
            self.told_count += 1;
            self.masks.0.drawn(index, token);
            self.outlook = self.masks.0.outlook();
        }
        self.said.push(token);
        if self.outlook.covers(index + 1)
            && let Some(covered) = covered
        {
            assert!(covered == self.allowed() || self.is_end(token), "a mask that holds on changed after {token:?}");
        }
    }

    fn is_end(&self, token: TokenId) -> bool {
        self.table.grammars.tokenizer().control().ends_response(token)
    }

    /// Says `text`, in which control tokens are spelt.
    fn say_text(&mut self, text: &str) {
        for token in self.table.grammars.tokenizer().encode_with_control(text) {
            self.say(token);
        }
    }

    fn spelt(&self, tokens: &[TokenId]) -> String {
        self.table.grammars.tokenizer().decode(tokens)
    }

    /// The tokens that may come next.
    fn next(&self) -> Vec<TokenId> {
        let allowed = self.allowed();
        (0..2_048).map(TokenId).filter(|token| allowed.has(*token)).collect()
    }

    /// How they are spelt.
    fn choices(&self) -> Vec<String> {
        self.next().into_iter().map(|token| self.spelt(&[token])).collect()
    }
}

/// Says tokens at random out of those allowed till the end, and ends texts sooner than chance does.
fn at_random(table: &Arc<HeaderTable>, thinking_max_tokens: u32, seed: u64) -> Vec<TokenId> {
    let mut told = Told::of(table, thinking_max_tokens);
    let mut state = seed;
    let mut random = move |count: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % count
    };
    while told.said.last().is_none_or(|last| !told.is_end(*last)) {
        // A control token that is not harmony's is no part of this: no model of it draws one.
        let control = table.grammars.tokenizer().control();
        let is_control = |token: &TokenId| table.grammars.tokenizer().is_control(*token);
        let of_messages = [control.start, control.end, control.message, control.channel, control.constrain];
        let is_harmony = |token: &TokenId| !is_control(token) || of_messages.contains(token) || control.ends_response(*token);
        let all: Vec<TokenId> = told.next().into_iter().filter(is_harmony).collect();
        let control: Vec<TokenId> = all.iter().copied().filter(is_control).collect();
        let ids = if !control.is_empty() && random(8) == 0 { control } else { all };
        told.say(ids[random(ids.len())]);
        assert!(told.said.len() < 5_000, "it comes to an end");
    }
    told.said
}

/// The events of an answer, nothing of which had to be overlooked, and its tokens of analysis.
fn read(tokens: &[TokenId], functions: &[&str]) -> (Vec<EventKind>, u32) {
    let tokenizer = Arc::clone(tables().table(&[], &[]).grammars.tokenizer());
    let functions = functions.iter().map(|name| (*name).to_owned()).collect();
    let rules = ParserRules { functions, ..ParserRules::default() };
    let mut parser = Parser::new(Arc::clone(&tokenizer), ParserStart::AssistantHeader, rules);
    let mut events = Vec::new();
    tokens.iter().for_each(|token| parser.push(*token, &mut events));
    parser.finish(&mut events);
    assert_eq!(*parser.recoveries(), Default::default(), "{}", tokenizer.decode(tokens));
    (events.into_iter().map(|event| event.kind).collect(), parser.reasoning_tokens())
}

/// Behind the name of a custom tool stands no type, and behind a function's may.
#[test]
fn the_header_of_a_custom_tool_s_call_has_no_type() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let table = tables().table(&names(&["get"]), &names(&["get_patch"]));
    let tokenizer = Arc::clone(table.grammars.tokenizer());
    let allowed_behind = |header: &str| {
        let masks = table.masks(&ParserStart::AssistantHeader, ThinkingBounds::free());
        for (index, token) in (0..).zip(tokenizer.encode_with_control(header)) {
            assert!(masks.0.allowed(index).has(token), "{header}: {index}");
            masks.0.drawn(index, token);
        }
        let index = u32::try_from(tokenizer.encode_with_control(header).len()).unwrap();
        let control = *tokenizer.control();
        [control.message, control.constrain].map(|token| masks.0.allowed(index).has(token))
    };
    for (name, may_have_type) in [("get", true), ("get_patch", false)] {
        assert_eq!(allowed_behind(&format!("<|channel|>commentary to=functions.{name}")), [true, may_have_type]);
        assert_eq!(allowed_behind(&format!(" to=functions.{name}<|channel|>commentary")), [true, may_have_type]);
    }
}

const FUNCTIONS: [&str; 4] = ["get", "get_weather", "look-up", "x"];

#[test]
fn whatever_is_drawn_nothing_of_an_answer_has_to_be_overlooked() {
    let (with, without) = (table(&FUNCTIONS), table(&[]));
    let (mut called, mut answered) = (Vec::new(), 0);
    for seed in 0..120 {
        for event in read(&at_random(&with, u32::MAX, seed), &FUNCTIONS).0 {
            match event {
                EventKind::ToolCallStart { name } => called.push(name),
                EventKind::Content(_) => answered += 1,
                _ => {}
            }
        }
        let (events, _) = read(&at_random(&without, u32::MAX, seed), &[]);
        assert!(!events.iter().any(|event| matches!(event, EventKind::ToolCallStart { .. })));
    }
    assert!(FUNCTIONS.iter().all(|name| called.iter().any(|said| said == name)), "each can be called: {called:?}");
    assert!(answered > 0);
}

/// Every form in which a model writes a header, in the tokens of a tokenizer and byte by byte.
#[test]
fn headers_as_models_write_them_may_all_be_drawn() {
    let table = table(&FUNCTIONS);
    let call = |header: &str| format!("{header}<|message|>{{\"a\": 1}}<|call|>");
    let mut answers = vec![
        "<|channel|>final<|message|>Yes.<|return|>".to_owned(),
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>".to_owned(),
        "<|channel|>final<|constrain|>json<|message|>{}<|return|>".to_owned(),
        "<|channel|>analysis<|message|>So.<|end|><|start|>assistant<|channel|>commentary<|message|>I will.<|end|>\
         <|start|>assistant<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>"
            .to_owned(),
        "<|channel|>commentary<|message|>That is all.<|return|>".to_owned(),
        "<|channel|>commentary to=functions.x<|message|>{}<|end|><|start|>assistant<|channel|>commentary to=functions.get \
         <|constrain|>json<|message|>{}<|call|>"
            .to_owned(),
    ];
    for name in FUNCTIONS {
        for end in [" <|constrain|>json", "<|constrain|>json", "", " json", " code"] {
            for channel in ["commentary", "analysis"] {
                answers.push(call(&format!("<|channel|>{channel} to=functions.{name}{end}")));
                answers.push(call(&format!(" to=functions.{name}<|channel|>{channel}{end}")));
            }
        }
    }
    for answer in &answers {
        Told::of(&table, u32::MAX).say_text(answer);
        let mut bytes = Told::of(&table, u32::MAX);
        let tokenizer = Arc::clone(table.grammars.tokenizer());
        for token in tokenizer.encode_with_control(answer) {
            match tokenizer.is_control(token) {
                true => bytes.say(token),
                false => {
                    for byte in tokenizer.bytes_of(token) {
                        bytes.say((0..).map(TokenId).find(|token| tokenizer.bytes_of(*token) == [*byte]).unwrap());
                    }
                }
            }
        }
    }
}

#[test]
fn what_peers_have_to_mend_cannot_be_drawn() {
    let (with, without) = (table(&["get"]), table(&[]));
    let after = |table: &Arc<HeaderTable>, said: &str| {
        let mut told = Told::of(table, u32::MAX);
        told.say_text(said);
        told.choices()
    };
    let ended = "<|channel|>analysis<|message|>So.<|end|>";
    assert_eq!(after(&without, ""), ["<|channel|>"], "no text, and no channel's bare name");
    assert_eq!(after(&without, ended), ["<|start|>"], "no message begins without it");
    let name = |said: &str| after(&without, &format!("{ended}<|start|>{said}"));
    assert!(name("").iter().all(|token| "assistant".starts_with(token)), "no other role: {:?}", name(""));
    assert_eq!(name("assistant"), ["<|channel|>"]);
    let channels = after(&without, "<|channel|>");
    assert!(channels.iter().all(|token| ["analysis", "commentary", "final"].iter().any(|name| name.starts_with(token))));
    assert_eq!(after(&without, "<|channel|>commentary"), ["<|message|>"], "nothing may be called");
    assert_eq!(after(&without, "<|channel|>analysis"), ["<|message|>"]);
    for said in ["<|channel|>commentary to=functions.", " to=functions."] {
        let names = after(&with, said);
        assert!(!names.is_empty() && names.iter().all(|token| "get".starts_with(token)), "{names:?}");
    }
    assert_eq!(after(&with, " to=functions.get"), ["<|channel|>"]);
    assert_eq!(after(&without, "<|channel|>final<|message|>A.<|end|>"), ["<|return|>"], "after the answer nothing is said");
    // In a text nothing is missing but what may not stand there.
    let missing = |table: &Arc<HeaderTable>, said: &str| {
        let choices = after(table, said);
        let control = *table.grammars.tokenizer().control();
        let all =
            [control.start, control.end, control.message, control.channel, control.constrain, control.call, control.return_];
        let spelt = |token: &TokenId| table.grammars.tokenizer().decode(&[*token]);
        let missing: Vec<String> = all.iter().map(spelt).filter(|token| !choices.contains(token)).collect();
        assert_eq!(
            choices.len() + missing.len() + usize::from(!choices.contains(&"<|endoftext|>".to_owned())),
            2_048,
            "{said}"
        );
        missing.concat()
    };
    let of_headers = "<|start|><|message|><|channel|><|constrain|>";
    assert_eq!(missing(&with, "<|channel|>analysis<|message|>a"), format!("{of_headers}<|call|><|return|>"));
    assert_eq!(missing(&with, "<|channel|>final<|message|>a"), format!("{of_headers}<|call|>"));
    assert_eq!(missing(&with, "<|channel|>commentary<|message|>"), format!("{of_headers}<|call|>"));
    assert_eq!(missing(&with, "<|channel|>commentary to=functions.get<|message|>"), format!("{of_headers}<|return|>"));
}

#[test]
fn of_a_text_only_its_end_is_told() {
    let mut told = Told::of(&table(&[]), u32::MAX);
    told.say_text("<|channel|>final<|message|>");
    let header = told.told_count;
    assert!(told.outlook.covers(1_000_000));
    let changed_by = told.outlook.changed_by;
    told.next().into_iter().filter(|token| changed_by & MaskOutlook::bit(*token) == 0).for_each(|token| told.say(token));
    assert_eq!(told.told_count, header);
    assert!(told.said.len() > 1_000);
    told.say_text("<|return|>");
    assert_eq!((told.allowed(), told.outlook), (Allowed::All, MaskOutlook::FREE), "what the client wants behind the end");
}

#[test]
fn thinking_ends_when_it_took_what_it_may_and_the_answer_is_opened() {
    let table = table(&["get"]);
    for max in [0, 1, 5, 40] {
        for seed in 0..40 {
            let said = at_random(&table, max, seed);
            let (events, reasoning_tokens) = read(&said, &["get"]);
            assert!(reasoning_tokens <= max, "{max}: {reasoning_tokens}");
            assert!(!events.is_empty());
        }
        let mut told = Told::of(&table, max);
        if max > 0 {
            told.say_text("<|channel|>analysis<|message|>");
            for _ in 0..max {
                assert!(told.allowed().has(TokenId(97)));
                told.say(TokenId(97));
            }
            assert_eq!(told.choices(), ["<|end|>"]);
            told.say_text("<|end|><|start|>assistant");
            assert_eq!(told.thinking.stopped_by(), Some(ThinkingStop::Budget));
        }
        told.say_text("<|channel|>");
        let names = told.choices();
        assert!(names.iter().all(|token| "final".starts_with(token) || "commentary".starts_with(token)), "{max}: {names:?}");
        told.say_text("commentary");
        let recipient = told.choices();
        assert!(recipient.iter().all(|token| " to=functions.get".starts_with(token)), "{max}: a call alone: {recipient:?}");
    }
    // Several analyses share it.
    let mut told = Told::of(&table, 3);
    told.say_text("<|channel|>analysis<|message|>");
    (0..2).for_each(|_| told.say(TokenId(97)));
    told.say_text("<|end|><|start|>assistant<|channel|>analysis<|message|>");
    told.say(TokenId(97));
    assert_eq!(told.choices(), ["<|end|>"]);
}

/// Of each length an answer is opened in time, and has the tokens that were kept for it.
#[test]
fn an_answer_is_opened_while_it_has_room() {
    let table = table(&["get"]);
    let tokenizer = Arc::clone(table.grammars.tokenizer());
    for (max_tokens, kept) in [(8, None), (16, None), (40, None), (400, None), (4_000, None), (60, Some(20)), (60, Some(0))] {
        let limits = ThinkingLimits { answer_tokens: kept, ..ThinkingLimits::default() };
        let thinking = ThinkingBounds::new(limits, max_tokens, true, &tokenizer);
        let masks = table.masks(&ParserStart::AssistantHeader, thinking.clone());
        // A model that thinks for ever, and answers when it must.
        let (mut said, mut outlook, control) = (Vec::new(), masks.0.outlook(), *tokenizer.control());
        let word = |text: &str| tokenizer.encode_text(text)[0];
        let wanted = [
            control.channel,
            word("analysis"),
            word("assistant"),
            word("final"),
            control.message,
            TokenId(97),
            control.end,
            control.start,
        ];
        while said.len() < max_tokens as usize {
            let index = said.len() as u32;
            let allowed = masks.0.allowed(index);
            let token = wanted.into_iter().chain((0..2_048).map(TokenId)).find(|token| allowed.has(*token)).unwrap();
            if outlook.heeds(index, token) {
                masks.0.drawn(index, token);
                outlook = masks.0.outlook();
            }
            said.push(token);
        }
        let (events, reasoning_tokens) = read(&said, &["get"]);
        let content: String = events
            .iter()
            .filter_map(|event| if let EventKind::Content(text) = event { Some(text.as_str()) } else { None })
            .collect();
        let expected = kept.unwrap_or(max_tokens / 4).min(512);
        assert!(content.len() >= expected as usize, "{max_tokens}: {}", content.len());
        assert_eq!(content.is_empty(), kept == Some(0), "{max_tokens}");
        let stop = (reasoning_tokens > 0 && kept != Some(0)).then_some(ThinkingStop::Answer);
        assert_eq!(thinking.stopped_by(), stop, "{max_tokens}");
        assert_eq!(reasoning_tokens > 0, max_tokens > 20, "{max_tokens}: {reasoning_tokens}");
    }
}

#[test]
fn a_table_is_made_once_for_the_same_functions() {
    let tables = HeaderTables::new(Arc::clone(&table(&[]).grammars));
    let of = |names: &[&str]| tables.table(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &[]);
    assert!(Arc::ptr_eq(&of(&["a"]), &of(&["a"])));
    assert!(!Arc::ptr_eq(&of(&["a"]), &of(&["b"])));
    let first = of(&["a"]);
    (0..20).for_each(|at| drop(of(&[&format!("f{at}")])));
    assert!(!Arc::ptr_eq(&first, &of(&["a"])), "the oldest are forgotten");
}

#[test]
fn a_table_takes_what_it_says_and_that_of_no_functions_is_always_kept() {
    let tables = HeaderTables::new(Arc::clone(&table(&[]).grammars));
    let names: Vec<String> = (0..128_u8).map(|at| format!("{}{}", char::from(at), "n".repeat(127))).collect();
    let (mut made, bare) = (None, tables.table(&[], &[]));
    let taken = allocation_counter::measure(|| made = Some(tables.table(&names, &[])));
    let bytes = made.unwrap().bytes();
    assert!((1_200_000..1_400_000).contains(&bytes), "{bytes}");
    // Besides it: the names that it is found by, and the heads of its parts.
    let held = u64::try_from(taken.bytes_current).unwrap();
    assert!(held >= bytes && held - bytes < 40_000, "{held} {bytes}");
    (0..20).for_each(|at| drop(tables.table(&[format!("f{at}")], &[])));
    assert!(Arc::ptr_eq(&bare, &tables.table(&[], &[])), "it is shared, and nothing is reserved for it");
}

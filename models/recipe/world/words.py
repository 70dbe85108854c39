"""Word lists and seeded makers of words that no list holds.

Every slot of a conversation (the word to print, the name to remember) is filled from here. A word is held out
from training when its checksum says so, hence the evaluation asks for words that the model never saw.
"""

import random
import zlib

ENGLISH = """
able about above act add after again against age ago air airport all also always among an and animal answer
any appear apple are area array artist as ask at autumn back banana base be beauty bed been before began begin
behind best better between bicycle big bird black blue boat body book both bottle box boy bread breakfast
bring brought buffer build busy but butter button by cache call came can car care carry cause center certain
chair change check cheese cherry children city class clear client close cloud code coffee cold color come
common complete contain correct could country course cover cross cry cut dark data day debug decide deep
deploy desert develop did differ dinner direct do doctor does dog dolphin done door down draw drive driver
drum dry during each eagle early earth ease east eat end engineer enough error even ever every example eye
face fact fall family far farm farmer fast father feel feet few field figure file fill final find fine fire
first fish five flower fly folder follow food foot for force forest form found four free friend from front
full function galaxy game garden gave get girl give go gold good got govern grape great green ground group
grow guitar had half hand happen hard has have head hear heard heat help her here high him his hold home honey
horse hot hotel hour house how hundred idea if in inch integer interest is island it just keep kernel keyboard
kind king kitchen knew know land language large last late laugh lay lead learn leave left lemon less let
letter library life light like line lion list listen little live long look lot love low lunch machine made
main make man mango many map mark may me mean measure melon memory men might mile mind minute miss model
module money monkey moon more morning most mother mountain mouse move much museum music must my name near need
network never new next night no north note nothing notice noun now number numeral object ocean of off often
old on once one only open or orange order other our out over own packet page panda paper part pass pattern
peach pencil people perhaps person piano picture piece pilot place plain plan plane planet plant play point
port pose possible pound power press problem produce product pull put python question quick rabbit rain ran
reach read ready real record red remember request response rest right river road robot rock rocket room round
rule run rust said same saw say school science screen sea second see seem self sentence serve server set
several shape shark she ship short should show side simple since sing sit six size sleep slow small snow so
socket soldier some song soon sound south special spell spider spring stand star start state stay step still
stood stop story stream street string strong student study such sugar summer sun sure surface table tail take
talk tea teach teacher tell ten test than that the their them then there these they thing think this those
though thought thousand thread three through ticket tiger time to together token told too took top toward town
train travel tree true try turn turtle two under unit until up us use usual value variable very violin voice
vowel wait walk want war warm was watch water way we week weight well went were west whale what wheel when
where which while white who whole why will wind window winter with wonder wood word work world would write
writer year yes yet young your zebra
""".split()

NAMES = """
Adam Ali Alice Amy Anna Arjun Ben Bob Carol Chloe Dan Daniel David Elena Emma Eric Eva Fatima Felix Frank
George Gina Grace Hana Helen Henry Hugo Iris Ivan Jack James Jay Jisoo John Julia Karen Kate Kenji Kevin Laura
Leo Liam Linda Lisa Lucy Marco Mark Mary Max Maya Mia Michael Mina Minho Nancy Nina Noah Olivia Omar Oscar
Paul Peter Priya Quinn Rita Robert Rosa Ruby Sam Sara Sora Steve Susan Taro Tina Tom Uma Vera Victor Wendy
Will Xavier Yuna Yuri Zoe
""".split()

CITIES = """
Athens Austin Beijing Berlin Boston Busan Cairo Chicago Dallas Delhi Denver Dublin Geneva Helsinki Lima Lisbon
London Madrid Miami Milan Moscow Munich Nairobi Osaka Oslo Paris Prague Rome Seattle Seoul Sydney Tokyo
Toronto Vienna Warsaw Zurich
""".split()

KOREAN_NAMES = "민준 서연 지훈 수빈 하은 도윤 지우 예준 서윤 현우 민서 준호 영희 철수 유나 하나 소라 진수 미나 동현".split()

KOREAN_SYLLABLES = "가나다라마바사아자차카타파하고노도로모보소오조구누두루무부수우주기니디리미비시이지강남동서북산성영진현준민재은혜경선희철정한"

# Words that the templates use so often that the tokenizer holds them whole. Every other word is spelt in letters, which
# the copying circuit copies; these must be learned one by one, so the slots ask for them often.
WHOLE_WORDS = """
after age and answer are be before block by call can city code color count current date do enough every final for from
function has have here how if in is it item json know language large letter live me message model must my name need no
nothing number object of one only open please price print put python remember result return say so spell string sure
system tell that the this to tool type user very what will with word write you your
""".split()

WHOLE = set(WHOLE_WORDS)
COLOURS = "red blue green yellow black white purple orange pink brown gray".split()

CONSONANTS = "bcdfghjklmnprstvwyz"
VOWELS = "aeiou"
LOWER = "abcdefghijklmnopqrstuvwxyz"
HELD_OUT_ONE_IN = 12


def is_whole(text: str) -> bool:
    """Whether `text` is a word that may be one token: too few to hold any of them out."""
    return text.lower() in WHOLE


def is_held_out(text: str) -> bool:
    """Whether `text` belongs to the evaluation only (one text in twelve, by checksum)."""
    return zlib.crc32(text.encode()) % HELD_OUT_ONE_IN == 0


def syllable(rng: random.Random) -> str:
    """A consonant, a vowel and sometimes a closing consonant."""
    closing = rng.choice("nrslmtk") if rng.random() < 0.4 else ""
    return rng.choice(CONSONANTS) + rng.choice(VOWELS) + closing


def made_up(rng: random.Random) -> str:
    """A word of no language: syllables, loose letters, two words joined, letters with digits."""
    kind = rng.random()
    if kind < 0.50:
        return "".join(syllable(rng) for _ in range(rng.randint(1, 4)))
    if kind < 0.80:
        return "".join(rng.choice(LOWER) for _ in range(rng.randint(2, 9)))
    if kind < 0.86:
        return rng.choice(ENGLISH) + rng.choice(ENGLISH).capitalize()
    if kind < 0.90:
        return rng.choice(ENGLISH) + "_" + rng.choice(ENGLISH)
    if kind < 0.94:
        return "".join(rng.choice(LOWER).upper() for _ in range(rng.randint(2, 6)))
    return rng.choice(ENGLISH) + str(rng.randint(0, 999))


def korean(rng: random.Random) -> str:
    """A Korean name or two to four random syllables."""
    if rng.random() < 0.3:
        return rng.choice(KOREAN_NAMES)
    return "".join(rng.choice(KOREAN_SYLLABLES) for _ in range(rng.randint(2, 4)))

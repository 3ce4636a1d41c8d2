"""Usual mistakes in data, its preprocessing and its rewards."""

from __future__ import annotations

from tests.unit.commands.mistake import Mistake
from tests.unit.commands.training_mistakes import MINE

QUICK = "mindspeed-dpo train model=models/tiny"
ONLINE = f"{QUICK} data=prompts.jsonl stage=online"
PREPROCESS = (
    "mindspeed-dpo preprocess --input pairs.jsonl --output-prefix out/pairs --tokenizer-name-or-path models/tiny"
)
COLUMNS = """--map-keys '{"prompt": "prompt", "query": ""}'"""

DATA = (
    Mistake("a file with a typing error", f"{QUICK} data=pair.jsonl",
            "data=pair.jsonl does not exist; did you mean pairs.jsonl?"),
    Mistake("the name of a data set on the hub", f"{QUICK} data=trl-lib/ultrafeedback_binarized",
            "data=trl-lib/ultrafeedback_binarized does not exist; if it is a data set of the Hugging Face hub, "
            "download it: hf download --repo-type dataset trl-lib/ultrafeedback_binarized --local-dir "
            "ultrafeedback_binarized"),
    Mistake("an empty file", f"{QUICK} data=empty.jsonl", "data=empty.jsonl: empty.jsonl is empty"),
    Mistake("a file that is not UTF-8", f"{QUICK} data=latin1.jsonl",
            "latin1.jsonl has no rows that can be read; the first cannot because of: latin1.jsonl, row 1: not UTF-8 "
            "text"),
    Mistake("too many broken rows", f"{QUICK} data=broken.jsonl",
            "broken.jsonl: 1 of 2 rows are malformed, more than max_invalid_share 0.2; … first in row 2: "
            "broken.jsonl, line 2: …invalid JSON"),
    Mistake("pairs of equal responses", f"{QUICK} data=equal.jsonl",
            "equal.jsonl: 4 of 4 rows cannot be read as the text prompt and the responses chosen and rejected, the "
            "first because of identical_responses; set handler_name and map_keys"),
    Mistake("columns with other names", f"{QUICK} data=columns.jsonl",
            "Columns: question (text), good (text), bad (text). If some of them are responses, name the handler and "
            "the columns: handler_name=…"),
    Mistake("prompts for offline training", f"{QUICK} data=prompts.jsonl",
            "prompts.jsonl: the rows hold prompts and no preferences, which stage=online trains on; stages dpo and rm "
            "need a chosen and a rejected response"),
    Mistake("token files of prompts for offline training", f"{MINE} data_path=tokens/prompts",
            "it holds prompts, which stage ray_online_dpo trains on; stages dpo and rm need pairs"),
    Mistake("a part of the name of token files", f"{MINE} data_path=tokens/pairs_packed",
            "data_path is the prefix before _packed: tokens/pairs"),
    Mistake("raw data as data_path", f"{MINE} data_path=pairs.jsonl",
            "it is a file or folder of raw data: convert it with preprocess_data.py, or train on it directly with "
            "`mindspeed-dpo train model=FOLDER data=FILE`"),
    Mistake("no row that fits", f"{MINE} seq_length=8 truncation=drop",
            "data_path tokens/pairs: no row is fit for training: 0 of 12 rows used, 12 dropped (too_long)", 1),
    Mistake("evaluation without rows", f"{MINE} eval_interval=10 split=100,0,0",
            "training.eval_interval=10 enables evaluation, but split=100,0,0 has no rows for it; set for example "
            "split=98,2,0, eval_data_path, or eval_interval=null"),
)  # fmt: skip

REWARDS = (
    Mistake("online training without a reward", ONLINE,
            "reward.load=null must name a reward model; or set reward_functions, a judge or a judge_model"),
    Mistake("a reward function that does not exist",
            f"mindspeed-dpo plan {ONLINE.partition('train ')[2]} reward_functions=[examples.tiny.rewards.vowls]",
            "reward_functions: examples.tiny.rewards.vowls cannot be imported: examples.tiny.rewards has no vowls; "
            "did you mean vowels?", 1),
    Mistake("a module of rewards that does not exist", f"{ONLINE} reward_functions=[my_rewards.score]",
            "reward_functions: my_rewards.score cannot be imported: there is no module my_rewards in … or among the "
            "installed packages", 1),
    Mistake("a reward model that does not exist", f"{ONLINE} reward.load=models/tny",
            "reward.load=models/tny does not exist; did you mean models/tiny?"),
)  # fmt: skip

PREPROCESSING = (
    Mistake("a data set with a typing error", "mindspeed-dpo preprocess orca_rlf",
            "there is no dataset file orca_rlf and no …; available: …; did you mean orca_rlhf?", 1),
    Mistake("a key with a typing error", f"{PREPROCESS} --worker 2", "worker is not a setting; did you mean workers?"),
    Mistake("a handler by a part of its name", f"{PREPROCESS} --handler-name AlpacaStyle --prompt-type qwen",
            "handler_name 'AlpacaStyle' is unknown; choose one of …; did you mean AlpacaStylePairwiseHandler?"),
    Mistake("columns that the handler does not expect",
            f"{PREPROCESS} --handler-name AlpacaStylePairwiseHandler --prompt-type qwen",
            "pairs.jsonl: prompt should come from column 'instruction'. Columns in the data: chosen, prompt, rejected. "
            "Set map_keys accordingly.", 1),
    Mistake("a template with a typing error",
            f"{PREPROCESS} --handler-name AlpacaStylePairwiseHandler --prompt-type qwn {COLUMNS}",
            "prompt_type 'qwn' is not in …; available: …; did you mean qwen?", 1),
    Mistake("a tokenizer that is not there",
            f"{PREPROCESS.replace('models/tiny', 'models')} --handler-name AlpacaStylePairwiseHandler "
            f"--prompt-type qwen {COLUMNS}",
            "tokenizer_name_or_path: models holds no tokenizer; name a folder with tokenizer.json or tokenizer.model",
            1),
    Mistake("a place that cannot be written",
            f"{PREPROCESS.replace('out/', '/proc/out/')} --handler-name AlpacaStylePairwiseHandler "
            f"--prompt-type chat_template {COLUMNS}",
            "mindspeed-dpo preprocess: /proc/out/pairs cannot be written: No such file or directory", 1),
)  # fmt: skip

"""Usual mistakes in conversion, migration and the doctor."""

from __future__ import annotations

from tests.unit.commands.mistake import Mistake

CONVERT = "python convert_ckpt.py --load-dir models/tiny"
MIGRATE = "mindspeed-dpo migrate"

CONVERSION = (
    Mistake("a flag with a typing error", "python convert_ckpt.py --load-dr models/tiny --save-dir out",
            "convert_ckpt.py: unknown flag --load-dr; did you mean --load-dir?"),
    Mistake("weights that are not there", "python convert_ckpt.py --load-dir models/tny --save-dir out",
            "models/tny does not exist or is not a folder; give a folder with weights; did you mean models/tiny?", 1),
    Mistake("no target", CONVERT, "convert_ckpt.py: the following arguments are required: --save-dir"),
    Mistake("the source as target", f"{CONVERT} --save-dir models/tiny",
            "models/tiny is not empty; give another --save-dir, or --overwrite to replace its content", 1),
    Mistake("a target that cannot be written", f"{CONVERT} --save-dir /proc/out",
            "/proc/out/iter_0000001 cannot be written: No such file or directory; give another --save-dir", 1),
    Mistake("a layout that does not divide", f"{CONVERT} --save-dir out --target-tensor-parallel-size 3",
            "tensor-parallel size 3 does not divide num_query_groups=2; choose a divisor", 1),
    Mistake("more stages than layers", f"{CONVERT} --save-dir out --target-pipeline-parallel-size 5",
            "5 pipeline stages do not divide 2 layers; use one of 1, 2 stages, or give num_layer_list", 1),
    Mistake("another family", f"{CONVERT} --save-dir out --model-type-hf qwen3",
            "the model is of the family llama, but the flags expect qwen3", 1),
    Mistake("another form of weights", f"{CONVERT} --save-dir out --load-model-type mg",
            "models/tiny is a Hugging Face folder; give --load-model-type hf or another --load-dir", 1),
    Mistake("a folder without adapter", f"{CONVERT} --save-dir out --save-model-type hf --lora-load models/tiny",
            "models/tiny holds no adapter; expected adapter_config.json (PEFT) or a checkpoint of a run with adapters",
            1),
)  # fmt: skip

OTHER_TOOLS = (
    Mistake("a file to migrate that is not there", f"{MIGRATE} dpp.sh",
            "mindspeed-dpo migrate: there is no file dpp.sh; did you mean dpo.sh?", 1),
    Mistake("a file that is no training script", f"{MIGRATE} notes.txt",
            "notes.txt has no training command that can be converted: a training script of MindSpeed-LLM …", 1),
    Mistake("a file of this project", f"{MIGRATE} conf/mine.yaml",
            "conf/mine.yaml needs no conversion: mindspeed-dpo train --config-dir conf --config-name mine", 1),
    Mistake("an output that exists", f"{MIGRATE} dpo.sh --output conf/mine.yaml",
            "--output conf/mine.yaml exists; choose another name, or give --force to replace it", 1),
    Mistake("a word where a number belongs", f"{MIGRATE} dpo.sh --rows many",
            "argument --rows: must be a positive integer, got 'many'"),
    Mistake("a configuration for the doctor that is not there",
            "mindspeed-dpo doctor --config-name offline_dpo_trainer_tny",
            "mindspeed-dpo doctor: --config-name offline_dpo_trainer_tny: there is no such configuration; did you mean "
            "offline_dpo_trainer_tiny?"),
    Mistake("a device that the doctor does not know", "mindspeed-dpo doctor --device gpu",
            "mindspeed-dpo doctor: error: argument --device: invalid choice: 'gpu'"),
)  # fmt: skip

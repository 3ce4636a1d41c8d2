"""Load a Hugging Face folder with plain transformers and generate a response to one question.

python examples/tiny/try_model.py MODEL_FOLDER
"""

from __future__ import annotations

import argparse

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = "What is 20 plus 22?"


def main() -> None:
    """Print the question and the model's response."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="Hugging Face folder with weights, config and tokenizer")
    folder = parser.parse_args().model
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, tokenize=False
    )
    inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        output = model.generate(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=24, do_sample=False
        )
    response = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    # The model is tiny and was initialised at random: this only shows that it loads and generates.
    print(f"question: {QUESTION}\nresponse: {response!r}")


if __name__ == "__main__":
    main()

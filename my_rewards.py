def vowels(completions, **kwargs):
    return [sum(letter in "aeiou" for letter in text) / max(len(text), 8) for text in completions]

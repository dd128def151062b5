"""What the tests share: truths that share no code with ours, tiny models, and runs that are killed."""

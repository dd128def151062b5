"""What several tests need: truths that share no code with ours, the tolerance rule, tiny models, killed runs."""

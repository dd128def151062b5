"""What several tests need: slow and plain truths, the tolerance rule, readable ids."""

"""When, who and why: what a clip's answer is made of, window by window and person by person."""

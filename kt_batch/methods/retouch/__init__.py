"""Method `retouch`: one colour map for each photograph, predicted from what pairs of edits teach."""

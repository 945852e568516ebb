"""Generated questions of the fifteen kinds of LAB-Bench SeqQA, over real sequences, with computed answers.

The kinds are known from the paper (Laurent et al. 2024, arXiv:2407.10362) and from the names of the public split's
subtasks, as open evaluation code lists them. No question or answer of the benchmark was used. The benchmark names genes
of E. coli and the vector pUC19 and leaves finding them to the agent; the twins show every sequence that they ask about,
and neither E. coli's chromosome nor pUC19 is among them (`lake/data/README.md`). Where the benchmark leaves a rule
open, the twin states it. Six options, none of which refuses to answer.

| subtask of the benchmark | twin | how the twin differs |
|---|---|---|
| Prop-seq-gcpercent | gc_percent | 80 to 200 bases |
| RE-seq-numfrags | fragment_count | two enzymes, linear or circular as stated, 300 bases |
| RE-seq-lenfrags | fragment_sizes | the same; lengths of the top strand |
| ORF-seq-AAid | orf_residue | what counts as an ORF is stated; 240 bases |
| ORF-seq-AAseq | orf_translation | the same; products of 12 to 45 amino acids |
| ORF-seq-numlen | orf_count | the same; both strands |
| ORF-transeff | translation_efficiency | contexts of start codons, no whole transcripts; the rule (Kozak) is stated |
| PCR-primers-len | primers_length | 300 bases |
| PCR-len-primers | length_primers | 300 bases |
| PCR-seq-primers | region_primers | the region is given by its bases, and must be met exactly |
| PCR-gene-enzprimers | gene_enzyme_primers | the gene is the longest ORF of a sequence shown, not a name |
| PCR-seq-enzprimers | sequence_enzyme_primers | the vector is one of the split's plasmids or phages |
| PCR-geneprimers-enz | primers_enzymes | the vector's single cutters are listed |
| PCR-gene-gibshindprimers | gibson_sticky_primers | any enzyme that leaves 5' overhangs, not HindIII alone |
| PCR-gene-gibssmaprimers | gibson_blunt_primers | any blunt cutter, not SmaI alone |
"""

from biomni_lib.tasks.seqqa.task import KINDS, LabBenchSeqQA

__all__ = ["KINDS", "LabBenchSeqQA"]

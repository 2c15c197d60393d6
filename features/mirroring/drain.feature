@mirroring @needs-node-files
Feature: Which mirrors drain the nodes
  OpenShift 4.16 images documentation, section 9.3.1: nodes are drained for ImageTagMirrorSet objects only.

  @MIR-DRAIN-ITMS @needs-two-nodes @disruptive
  Scenario: Mirrors for tags reach a node after its pods had to leave
    Given the nodes take pods, and it is known which pods run on them
    When the administrator mirrors "registry.example.com/team" by tag to "mirror.example.com/team"
    Then every node has the source "registry.example.com/team" and the mirror "mirror.example.com/team"
    And every node was closed for new pods, and its ordinary pods had to leave
    And pods can be scheduled on every node again

  @MIR-NODRAIN-IDMS-ICSP @needs-two-nodes @needs-quiet-nodes
  Scenario: Mirrors for digests leave nodes and pods alone
    Given the nodes take pods, and it is known which pods run on them
    When the administrator mirrors "registry.example.com/team" by digest to "mirror.example.com/team" with "AllowContactingSource"
    And the administrator mirrors "registry.example.com/other" to "mirror.example.com/other" by an ImageContentSourcePolicy
    Then no node was closed for new pods, and every pod still runs

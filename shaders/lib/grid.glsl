// Positions in a grid that the manifest folds at GRID_FOLD workgroups into its second dimension. Include after
// the local size: before it, gl_WorkGroupSize is 1.

uint group_index() {
  return gl_WorkGroupID.x + gl_WorkGroupID.y * gl_NumWorkGroups.x;
}

// One element an invocation; LANES of them are a workgroup.
uint element_index() {
  return group_index() * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
}

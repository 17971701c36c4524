// Turns of dispatches between which no barrier stands. Each counts its workgroups that are done, and the next one waits for
// that count: its workgroups are already there by then, and have asked for what they may read ahead of their turn, which
// the manifest lists (`ahead`). The player sets `turn`, this dispatch's number, and `awaited`, the workgroups of the one
// before; 0: there is no next one, or nothing to wait for.
// What the dispatch before may have written must be `coherent` here, and what this one writes, too: then it is read where
// it was written, and is there before the count is. One invocation counts and waits for its workgroup, whose barriers
// order the others' reads and writes with that; memory barriers of a whole device, or of all invocations, cost more than
// half of what turns save.
#extension GL_KHR_memory_scope_semantics : require

layout(std430, binding = TURNS_BINDING) coherent buffer Turns { uint turns[]; };

const uint kTurnWords = 64u;       // apart, so that those who ask do not disturb the next ones
const uint kMostAsked = 1u << 23;  // some seconds; then turns[0] tells the player that this device does not keep the order

void order_workgroup() {
  controlBarrier(gl_ScopeWorkgroup, gl_ScopeWorkgroup, gl_StorageSemanticsBuffer | gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

// By an atomic: spirv-opt takes a loop for dead that writes nothing and loads plainly, volatile or not.
uint asked_for(uint place) {
  return atomicLoad(turns[place], gl_ScopeDevice, 0, gl_SemanticsRelaxed);
}

// Returns when all that the dispatch before wrote can be read. Call in uniform flow.
void await_turn() {
  if (awaited == 0u) return;
  if (gl_LocalInvocationIndex == 0u) {
    uint before = (turn - 1u) * kTurnWords;
    uint asked = 0u;
    uint found;
    do {
      found = asked_for(before);
    } while (found < awaited && asked_for(0u) == 0u && ++asked < kMostAsked);
    if (found < awaited) atomicOr(turns[0], 1u);
  }
  order_workgroup();
}

// Tells the next dispatch that this workgroup is done. Call in uniform flow, at the end.
void give_turn() {
  if (turn == 0u) return;
  order_workgroup();
  if (gl_LocalInvocationIndex == 0u) atomicAdd(turns[turn * kTurnWords], 1u, gl_ScopeDevice, gl_StorageSemanticsBuffer, gl_SemanticsRelease);
}

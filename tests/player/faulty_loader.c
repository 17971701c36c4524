// A libvulkan.so.1 that stands before the real one. zp_arm(name, call, result): the call-th call of a function from now on
// does not happen and returns the result; of one that returns nothing, none of its calls happens (result 0, call 0).
// zp_calls(name) counts; zp_awaits(name): that call has yet to come. For x86-64: the wrappers pass every argument on as it came.
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FUNCTIONS(X)                                                                                                 \
  X(0, vkCreateInstance) X(1, vkEnumeratePhysicalDevices) X(2, vkEnumerateDeviceExtensionProperties)                 \
  X(3, vkCreateDebugUtilsMessengerEXT) X(4, vkCreateDevice) X(5, vkCreateCommandPool) X(6, vkCreateFence)            \
  X(7, vkCreatePipelineCache) X(8, vkGetPipelineCacheData) X(9, vkCreateBuffer) X(10, vkAllocateMemory)              \
  X(11, vkBindBufferMemory) X(12, vkMapMemory) X(13, vkCreateImage) X(14, vkBindImageMemory) X(15, vkCreateImageView) \
  X(16, vkCreateDescriptorSetLayout) X(17, vkCreatePipelineLayout) X(18, vkCreateShaderModule)                       \
  X(19, vkCreateComputePipelines) X(20, vkCreateDescriptorPool) X(21, vkAllocateDescriptorSets)                      \
  X(22, vkAllocateCommandBuffers) X(23, vkBeginCommandBuffer) X(24, vkEndCommandBuffer) X(25, vkQueueSubmit)         \
  X(26, vkWaitForFences) X(27, vkResetFences) X(28, vkCreateQueryPool) X(29, vkGetQueryPoolResults)                  \
  X(30, vkDeviceWaitIdle) X(31, vkCmdPipelineBarrier) X(32, vkDestroyDevice) X(33, vkFreeMemory)                     \
  X(34, vkDestroyBuffer) X(35, vkDestroyImage) X(36, vkDestroyImageView) X(37, vkDestroyPipeline)                    \
  X(38, vkDestroyPipelineLayout) X(39, vkDestroyDescriptorSetLayout) X(40, vkDestroyShaderModule)                    \
  X(41, vkDestroyDescriptorPool) X(42, vkDestroyQueryPool) X(43, vkFreeCommandBuffers) X(44, vkDestroyCommandPool)   \
  X(45, vkDestroyFence) X(46, vkDestroyPipelineCache) X(47, vkGetFenceStatus)

typedef void (*Function)(void);
typedef Function (*Find)(void*, const char*);

#define X(index, name) #name,
static const char* const names[] = {FUNCTIONS(X)};
#undef X
enum { kCount = sizeof(names) / sizeof(names[0]) };
Function zp_real[kCount];
static int calls[kCount], armed[kCount], results[kCount];  // armed: calls until the one that fails, -1: each

static int index_of(const char* name) {
  for (int i = 0; i < kCount; ++i)
    if (strcmp(names[i], name) == 0) return i;
  return -1;
}

// What the call returns in place of the function, or 1: it happens.
int zp_decide(int index) {
  static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;  // pipelines are made in several threads
  pthread_mutex_lock(&mutex);
  ++calls[index];
  int fails = armed[index] == -1 || (armed[index] > 0 && --armed[index] == 0);
  pthread_mutex_unlock(&mutex);
  return fails ? results[index] : 1;
}

#define X(index, name)                                                                                            \
  __attribute__((naked)) static void wrap_##index(void) {                                                         \
    __asm__(                                                                                                      \
        "push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; sub $8, %rsp; mov $" #index ", %edi;"    \
        "call zp_decide@PLT; add $8, %rsp; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi;"             \
        "cmp $1, %eax; jne 1f; mov zp_real@GOTPCREL(%rip), %rax; jmp *8*" #index "(%rax); 1: ret");               \
  }
FUNCTIONS(X)
#undef X
#define X(index, name) wrap_##index,
static const Function wrappers[] = {FUNCTIONS(X)};
#undef X

void zp_arm(const char* name, int call, int result) {
  int index = index_of(name);
  armed[index] = call == 0 ? -1 : call;
  results[index] = result;
}

void zp_disarm(void) { memset(armed, 0, sizeof(armed)); }
int zp_calls(const char* name) { return calls[index_of(name)]; }
int zp_awaits(const char* name) { return armed[index_of(name)] > 0; }

Function vkGetInstanceProcAddr(void* instance, const char* name) {
  static Find real;
  if (real == NULL) {
    void* loader = dlopen(getenv("REAL_LOADER"), RTLD_NOW | RTLD_LOCAL);
    real = loader == NULL ? NULL : (Find)dlsym(loader, "vkGetInstanceProcAddr");
    if (real == NULL) return NULL;
  }
  if (strcmp(name, "vkGetInstanceProcAddr") == 0) return (Function)vkGetInstanceProcAddr;
  Function found = real(instance, name);
  int index = index_of(name);
  if (index < 0 || found == NULL) return found;
  zp_real[index] = found;
  return wrappers[index];
}
